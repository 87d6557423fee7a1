"""Orders of FSQ channels: prefixes of indices, fills of dropped channels, and files of them."""

import json
import math
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import vidtok
from tests.vidtok.small import small
from vidtok import channels, checkpoint, fsq
from vidtok.__main__ import main
from vidtok.channel_fit import Moments, fit
from vidtok.channels import ChannelOrder, Fill, prefix_indices
from vidtok.tensor_file import write_tensors

levels_of_any_kind = st.lists(st.integers(2, 9), min_size=1, max_size=6).map(tuple)


@st.composite
def orders(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int]:
    levels = draw(levels_of_any_kind)
    order = tuple(draw(st.permutations(range(len(levels)))))
    return levels, order, draw(st.integers(1, len(levels)))


def drawn(levels: tuple[int, ...], shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(prod(levels), shape, generator=generator, dtype=torch.int32)


@given(orders(), st.integers(0, 2**31 - 1))
def test_a_prefix_is_the_number_of_its_channels_digits(
    case: tuple[tuple[int, ...], tuple[int, ...], int], seed: int
) -> None:
    levels, order, k = case
    indices = drawn(levels, (3, 7), seed)
    found = prefix_indices(indices, levels, order, k)
    assert found.dtype == torch.int32
    codes = fsq.indices_to_codes(indices, levels)[..., list(order[:k])]
    kept = tuple(levels[channel] for channel in order[:k])
    assert torch.equal(fsq.indices_to_codes(found, kept), codes)
    assert torch.equal(fsq.codes_to_indices(codes, kept), found)


def test_prefixes_that_int32_cannot_hold() -> None:
    levels, last = (16,) * 8, torch.tensor([16**8 - 1])
    whole = prefix_indices(last, levels, range(8), 8)
    assert (whole.dtype, whole.tolist()) == (torch.int64, last.tolist())
    assert prefix_indices(last, (2,) * 32, range(32), 31).tolist() == [2**31 - 1]
    assert prefix_indices(last, levels, range(8), 7).dtype == torch.int32


@given(levels_of_any_kind, st.data())
def test_a_prefix_in_the_natural_order_is_a_remainder(
    levels: tuple[int, ...], data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, len(levels)))
    indices = drawn(levels, (50,))
    found = prefix_indices(indices, levels, range(len(levels)), k)
    assert torch.equal(found, indices % prod(levels[:k]))


@given(orders(), st.data())
def test_a_shorter_prefix_is_a_remainder_of_a_longer_one(
    case: tuple[tuple[int, ...], tuple[int, ...], int], data: st.DataObject
) -> None:
    levels, order, k = case
    fewer = data.draw(st.integers(1, k))
    indices = drawn(levels, (50,))
    own = ChannelOrder(levels, order, {})
    size = own.codebook_size(fewer)
    assert torch.equal(own.prefix_indices(indices, fewer), own.prefix_indices(indices, k) % size)
    assert int(own.prefix_indices(indices, k).max()) < own.codebook_size(k)


def order_of(levels: tuple[int, ...], order: tuple[int, ...]) -> ChannelOrder:
    moments = Moments(levels)
    moments.add(drawn(levels, (4, 3, 4, 4)))
    fills = {k: moments.fill(order[:k], order[k:]) for k in range(1, len(order))}
    return ChannelOrder(levels, order, fills)


def test_codes_of_a_prefix_are_exact_in_the_kept_channels() -> None:
    own = order_of((8, 5, 4), (2, 0, 1))
    indices = drawn(own.levels, (2, 3, 4, 4), 1)
    codes = fsq.indices_to_codes(indices, own.levels)
    for k in (1, 2, 3):
        found = own.codes(own.prefix_indices(indices, k), k)
        assert torch.equal(found[..., list(own.order[:k])], codes[..., list(own.order[:k])])
        assert torch.equal(found, own.filled(codes, k))
    assert torch.equal(found, codes)


def test_a_planted_relation_to_a_neighbour_is_found() -> None:
    """Channel 1 is channel 0 one latent frame earlier, and the first frame repeats it."""
    levels = (8, 8, 8)
    first, third = drawn((8,), (6, 5, 6, 6)), drawn((8,), (6, 5, 6, 6), 1)
    second = torch.cat([first[:, :1], first[:, :-1]], 1)
    indices = first + 8 * second + 64 * third
    moments = Moments(levels)
    for clip in indices[:4]:
        moments.add(clip[None])
    own = ChannelOrder(levels, (0, 2, 1), {2: moments.fill((0, 2), (1,))})
    codes = fsq.indices_to_codes(indices[4:], levels)
    error = (own.filled(codes, 2) - codes).abs().max()
    assert error < 0.02  # levels are 0.25 apart
    unrelated = ChannelOrder(levels, (0, 1, 2), {2: moments.fill((0, 1), (2,))})
    assert (unrelated.filled(codes, 2) - codes).abs().max() > 0.5


def test_moments_do_not_depend_on_how_clips_are_added() -> None:
    indices = drawn((8, 5, 4), (4, 3, 4, 5))
    together, single = Moments((8, 5, 4)), Moments((8, 5, 4))
    together.add(indices)
    for clip in indices:
        single.add(clip[None])
    one, other = (moments.fill((0, 2), (1,)) for moments in (together, single))
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)


def test_channels_that_move_more_pixels_are_worth_more() -> None:
    model = small("causal_v1_0")
    with torch.no_grad():
        weight = dict(model.named_parameters())["decoder.conv_in.conv.weight"]
        weight *= torch.tensor([0.3, 0.02, 2.0]).view(1, 3, 1, 1, 1)
    found = fit(model, list(drawn((8, 8, 8), (3, 2, 3, 3))))
    assert found.order == (2, 0, 1)
    assert sorted(found.fills) == [1, 2]
    assert found.levels == (8, 8, 8)


@pytest.fixture
def model() -> vidtok.Tokenizer:
    model = small("causal_v1_1")
    model.channels = order_of((8, 8, 8), (2, 0, 1))
    return model


def test_decodes_prefixes_of_all_channels_as_indices(model: vidtok.Tokenizer) -> None:
    assert model.channels is not None
    indices = drawn((8, 8, 8), (2, 2, 2, 2))
    prefixes = model.channels.prefix_indices(indices, 3)
    assert not torch.equal(prefixes, indices)
    whole = model.decode_indices(indices, 7)
    assert torch.equal(model.decode_indices(prefixes, 7, channels=3), whole)
    fewer = model.decode_indices(model.channels.prefix_indices(indices, 2), 7, channels=2)
    assert fewer.shape == whole.shape
    assert not torch.equal(fewer, whole)


@pytest.mark.parametrize(
    ("highest", "k", "says"),
    [
        (64, 2, "indices from 0 to 64: prefixes of 2 channels have 0 to 63"),
        (0, 4, "channels = 4: must be 1 to 3"),
        (0, 0, "channels = 0: must be 1 to 3"),
    ],
)
def test_refuses_prefixes_out_of_range(
    model: vidtok.Tokenizer, highest: int, k: int, says: str
) -> None:
    prefixes = torch.zeros(1, 1, 2, 2, dtype=torch.int32)
    prefixes[0, 0, 1, 1] = highest
    with pytest.raises(ValueError, match=says):
        model.decode_indices(prefixes, channels=k)


def test_a_model_without_an_order_says_how_to_fit_one() -> None:
    with pytest.raises(ValueError, match="no order of channels; fit one with `python -m vidtok"):
        small("causal_v1_1").decode_indices(torch.zeros(1, 1, 2, 2).int(), channels=2)


def test_refuses_a_number_of_channels_without_a_fill(model: vidtok.Tokenizer) -> None:
    assert model.channels is not None
    own = ChannelOrder((8, 8, 8), (2, 0, 1), {2: model.channels.fills[2]})
    with pytest.raises(ValueError, match="channels = 1: must be one of 2 or 3"):
        own.codes(torch.zeros(1, 1, 2, 2).int(), 1)


@pytest.mark.parametrize("order", [(0, 1), (0, 0, 1), (1, 2, 3)])
def test_refuses_what_is_not_an_order(order: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must name each of the channels 0 to 2 once"):
        ChannelOrder((8, 8, 8), order, {})
    with pytest.raises(ValueError, match="must name each of the channels 0 to 2 once"):
        prefix_indices(torch.zeros(2).int(), (8, 8, 8), order, 1)


def test_refuses_indices_out_of_the_codebook() -> None:
    with pytest.raises(
        ValueError, match=r"indices from 0 to 512: levels \(8, 8, 8\) have 0 to 511"
    ):
        prefix_indices(torch.tensor([0, 512]), (8, 8, 8), (0, 1, 2), 1)
    with pytest.raises(ValueError, match="must be integers"):
        prefix_indices(torch.zeros(2), (8, 8, 8), (0, 1, 2), 1)


def test_a_constant_code_is_a_fill_of_weight_zero() -> None:
    fills = {2: Fill(torch.zeros(1, 2, 1, 1, 1), torch.tensor([0.125]))}
    own = ChannelOrder((8, 8, 8), (0, 1, 2), fills)
    codes = own.codes(torch.zeros(1, 1, 2, 2).int(), 2)
    assert torch.equal(codes[..., 2], torch.full((1, 1, 2, 2), 0.125))


def test_is_stored_beside_the_weights_and_loaded_with_them(
    model: vidtok.Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    checkpoint.save(model, path, torch.float16)
    assert vidtok.load(path).channels is None
    own = fit(vidtok.load(path), list(drawn((8, 8, 8), (2, 2, 3, 3))))
    channels.save(own, channels.beside(path))
    assert channels.beside(path) == tmp_path / "m.channels.safetensors"
    loaded = vidtok.load(path).channels
    assert loaded is not None
    assert (loaded.levels, loaded.order, loaded.weights) == (own.levels, own.order, own.weights)
    for k, fill in own.fills.items():
        assert torch.equal(loaded.fills[k].weight, fill.weight)
        assert torch.equal(loaded.fills[k].bias, fill.bias)


@pytest.mark.parametrize("more", [[], ["--half"]])
def test_a_converted_model_keeps_its_order(
    model: vidtok.Tokenizer, more: list[str], tmp_path: Path
) -> None:
    path, target = tmp_path / "m.safetensors", tmp_path / "converted.safetensors"
    checkpoint.save(model, path)
    assert model.channels is not None
    channels.save(model.channels, channels.beside(path))
    assert main(["convert", str(path), str(target), *more]) == 0
    found = vidtok.load(target).channels
    assert found is not None
    assert found.order == model.channels.order
    assert found.weights  # of the converted weights, or `load` would warn


def test_an_order_of_other_weights_is_named_and_not_used(
    model: vidtok.Tokenizer, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    channels.save(fit(model, [drawn((8, 8, 8), (2, 3, 3))]), channels.beside(path))
    with torch.no_grad():
        next(model.decoder.parameters()).mul_(1.5)
    checkpoint.save(model, path)
    with pytest.warns(UserWarning, match="was fitted to other weights than m.safetensors"):
        assert vidtok.load(path).channels is None


def test_a_damaged_file_is_refused_in_one_line(model: vidtok.Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    checkpoint.save(model, path)
    channels.beside(path).write_bytes(path.read_bytes())
    with pytest.raises(ValueError, match=r"m\.channels\.safetensors: not a channels file"):
        vidtok.load(path)
    with pytest.raises(FileNotFoundError):
        channels.read(tmp_path / "none.safetensors")


ABOUT = {"levels": [8, 8, 8], "order": [2, 0, 1], "weights": ""}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"levels": [8.0, 8, 8]}, "levels = .* must be whole numbers"),
        ({"levels": [8, 8, True]}, "levels = .* must be whole numbers"),
        ({"levels": [8, 8, 1]}, "levels = .* levels >= 2"),
        ({"order": [2.0, 0, 1]}, "order = .* must be whole numbers"),
        ({"weights": None}, "weights = None: must be a digest"),
        ({"bias": math.nan}, r"fill\.2\.bias: has values that are not finite"),
        ({"weight": math.inf}, r"fill\.2\.weight: has values that are not finite"),
    ],
)
def test_wrong_values_in_a_file_are_refused_in_one_line(
    changes: dict[str, Any], says: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.channels.safetensors"

    def written(changes: dict[str, Any]) -> None:
        about = {key: changes.get(key, value) for key, value in ABOUT.items()}
        tensors = {
            "fill.2.weight": torch.full((1, 2, 1, 1, 1), changes.get("weight", 0.5)),
            "fill.2.bias": torch.full((1,), changes.get("bias", 0.5)),
        }
        write_tensors(tensors, path, {"vidtok_channels": json.dumps(about)})

    written({})
    assert channels.read(path).order == (2, 0, 1)
    written(changes)
    with pytest.raises(ValueError, match=f"m.channels.safetensors: not a .*{says}") as failed:
        channels.read(path)
    assert len(str(failed.value).splitlines()) == 1


@pytest.mark.parametrize("k", [0, 3])
def test_refuses_a_fill_of_no_or_all_channels(k: int) -> None:
    fill = Fill(torch.zeros(3 - k, k, 1, 1, 1), torch.zeros(3 - k))
    with pytest.raises(ValueError, match=f"fill of {k} of 3 channels"):
        ChannelOrder((8, 8, 8), (2, 0, 1), {k: fill})


@pytest.mark.parametrize("k", [2.0, "2", True, None])
def test_refuses_a_number_of_channels_that_is_not_whole(k: Any) -> None:
    own = order_of((8, 8, 8), (2, 0, 1))
    indices = torch.zeros(1, 1, 2, 2).int()
    for refused in (own.codes, own.prefix_indices):
        with pytest.raises(ValueError, match=f"channels = {k!r}: must be a whole number, 1 to 3"):
            refused(indices, k)


@pytest.mark.parametrize("k", [2.0, "2", True])
def test_decodes_only_a_whole_number_of_channels(model: vidtok.Tokenizer, k: Any) -> None:
    with pytest.raises(ValueError, match=f"channels = {k!r}: must be a whole number, 1 to 3"):
        model.decode_indices(torch.zeros(1, 1, 2, 2).int(), channels=k)


@pytest.mark.parametrize("wrong", [-1, 512])
def test_a_fit_refuses_indices_out_of_range(model: vidtok.Tokenizer, wrong: int) -> None:
    clips = list(drawn((8, 8, 8), (10, 1, 2, 2)))
    clips[5][0, 1, 1] = wrong  # a clip that is not one of those that are decoded
    with pytest.raises(ValueError, match=r"indices from .*: small_fsq_causal_v1_1 has 0 to 511"):
        fit(model, clips)


def test_the_package_has_an_order_for_its_own_weights() -> None:
    """Otherwise `load` warns: `python -m tools.bundled_models.channels` fits it again."""
    order = vidtok.load("vidtok_fsq_causal_488_262144_tiny").channels
    assert order is not None
    assert sorted(order.fills) == [1, 2, 3, 4, 5]
    assert order.codebook_size(4) == 4096
