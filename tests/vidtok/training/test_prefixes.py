"""Training with a random number of channels: what the decoder sees, learns, and takes along."""

import copy

import pytest
import torch
from torch import Tensor

from tests.vidtok.small import small
from tests.vidtok.training.test_trainer import clips, copies, losses, trainer
from vidtok import Tokenizer, fsq
from vidtok.channels import ChannelOrder, Fill
from vidtok.training.network import TrainedTokenizer
from vidtok.training.prefixes import Prefixes, shares
from vidtok.training.regularizers import FsqRegularizer

LEVELS = (8, 8, 5)
ORDER = (2, 0, 1)


def known() -> ChannelOrder:
    generator = torch.Generator().manual_seed(1)
    fills = {
        k: Fill(
            torch.randn(3 - k, k, 3, 3, 3, generator=generator) / 9,
            torch.randn(3 - k, generator=generator) / 9,
        )
        for k in (1, 2)
    }
    return ChannelOrder(LEVELS, ORDER, fills)


def output(num: int = 3, seed: int = 0) -> Tensor:
    """Unbounded output of an encoder."""
    return torch.randn(num, 2, 3, 4, 3, generator=torch.Generator().manual_seed(seed))


def test_training_sees_what_prefixes_decode_to() -> None:
    order, codes = known(), fsq.quantize(output(), LEVELS)
    prefixes = Prefixes(LEVELS, [1, 2, 3], order)
    seen = prefixes.filled(codes, [2, 0, 1])
    indices = fsq.codes_to_indices(codes, LEVELS)
    for clip, k in enumerate((3, 1, 2)):
        decoded = order.codes(order.prefix_indices(indices[clip : clip + 1], k), k)
        torch.testing.assert_close(seen[clip : clip + 1], decoded, rtol=0, atol=1e-5)
    assert torch.equal(seen[0], codes[0])
    again = prefixes.channel_order("digest")
    assert (again.levels, again.order, again.weights) == (LEVELS, ORDER, "digest")
    assert again.fills.keys() == order.fills.keys()
    for k, fill in order.fills.items():
        assert torch.equal(again.fills[k].weight, fill.weight)
        assert torch.equal(again.fills[k].bias, fill.bias)


def test_without_a_known_order_dropped_channels_begin_at_the_mean_of_their_levels() -> None:
    prefixes = Prefixes(LEVELS, [1, 3])
    assert prefixes.order == (0, 1, 2)
    seen = prefixes.filled(fsq.quantize(output(2), LEVELS), [0, 1])
    assert seen[0, ..., 1:].unique(dim=0).flatten().tolist()[:2] == [-0.125, 0.0]
    every = fsq.indices_to_codes(torch.arange(8 * 8 * 5), LEVELS)
    torch.testing.assert_close(seen[0, 0, 0, 0, 1:], every.mean(0)[1:])


def test_dropped_channels_do_not_reach_the_decoder() -> None:
    prefixes = Prefixes(LEVELS, [1, 2, 3], known())
    z = output().requires_grad_()
    prefixes.filled(fsq.quantize(z, LEVELS), [0, 1, 2]).square().sum().backward()
    assert z.grad is not None
    reached = [[bool(z.grad[clip, ..., c].any()) for c in ORDER] for clip in range(3)]
    assert reached == [[True, False, False], [True, True, False], [True, True, True]]
    other = fsq.quantize(output(seed=1), LEVELS)
    codes = fsq.quantize(output(), LEVELS)
    mixed = torch.stack([codes[..., 0], other[..., 1], codes[..., 2]], -1)
    one, two = (prefixes.filled(x, [1, 1, 2]) for x in (codes, mixed))
    assert torch.equal(one[:2], two[:2])
    assert not torch.equal(one[2], two[2])


def test_all_maps_get_a_gradient_whatever_is_drawn() -> None:
    prefixes = Prefixes(LEVELS, [1, 2, 3], known())
    prefixes.filled(fsq.quantize(output(), LEVELS), [2, 2, 2]).sum().backward()
    for weight in prefixes.parameters():
        assert weight.grad is not None
        assert not weight.grad.any()


def test_three_quarters_of_the_clips_keep_all_channels_and_prefixes_share_the_rest() -> None:
    prefixes, codes = Prefixes(LEVELS, [1, 2, 3]), fsq.quantize(output(4096), LEVELS)
    torch.manual_seed(0)
    kept = (prefixes(codes) == codes).all((1, 2, 3)).sum(1)
    counts = torch.bincount(kept, minlength=4) / 4096
    assert shares(3) == [0.125, 0.125, 0.75]
    assert shares(1) == [1.0]
    assert counts.tolist() == pytest.approx([0, *shares(3)], abs=0.03)


def test_numbers_are_drawn_for_each_clip_from_the_generator_that_checkpoints_hold() -> None:
    prefixes = Prefixes(LEVELS, [1, 2, 3])
    codes = fsq.quantize(output(64), LEVELS)

    def drawn() -> Tensor:
        return (prefixes(codes) == codes).all((1, 2, 3))[:, :2].sum(1)

    torch.manual_seed(3)
    first, second = drawn(), drawn()
    assert set(first.tolist()) == {1, 2}  # of the first two channels
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(drawn(), first)


@pytest.mark.parametrize("step", [0, 5000])
def test_entropies_are_those_of_tokenizers_with_so_few_channels(step: int) -> None:
    z = output(8)
    both, parts = FsqRegularizer(LEVELS, [ORDER[:1], ORDER[:2]])(z, step)
    each = []
    for k in (1, 2):
        kept = tuple(LEVELS[c] for c in ORDER[:k])
        _, alone = FsqRegularizer(kept)(z[..., list(ORDER[:k])], step)
        loss, one = FsqRegularizer(LEVELS, [ORDER[:k]])(z, step)
        each.append(loss)
        for name in ("token_entropy", "codebook_entropy"):
            assert torch.equal(one[name], alone[name])
    mean = sum(share * loss.item() for share, loss in zip(shares(2), each, strict=True))
    assert both.item() == pytest.approx(mean, rel=1e-5)
    assert each[0] != each[1]
    plain, found = FsqRegularizer(LEVELS)(z, step)
    whole, same = FsqRegularizer(LEVELS, [range(3)])(z, step)
    assert torch.equal(plain, whole)
    assert torch.equal(parts["commitment"], found["commitment"])
    assert all(torch.equal(found[name], same[name]) for name in found)


def prefix_error(model: Tokenizer, k: int) -> float:
    """Return the squared error of a clip that is decoded from k channels."""
    video = clips().movedim(-1, 1).float() / 127.5 - 1
    order = model.channels
    assert order is not None
    indices = model.encode(video).indices
    assert indices is not None
    decoded = model.decode_indices(order.prefix_indices(indices, k), video.shape[2], channels=k)
    return float((decoded - video).square().mean())


@pytest.mark.parametrize(
    ("train", "optimizer"), [("all", "adam"), ("decoder", "adam"), ("decoder", "muon")]
)
def test_prefixes_are_learned(train: str, optimizer: str) -> None:
    tokenizer = small("causal_v1_0")
    before = copies(tokenizer)
    run = trainer(tokenizer, train=train, optimizer=optimizer, nested=(1, 3))
    errors = [prefix_error(run.averaged, 1)]
    torch.manual_seed(0)
    for _ in range(10):
        run.train_on(clips(2))
    errors.append(prefix_error(run.averaged, 1))
    assert errors[1] < 0.6 * errors[0]
    for name, tensor in run.averaged.state_dict().items():
        if name.startswith("encoder."):
            assert torch.equal(tensor, before[name]) == (train == "decoder")


def test_a_tokenizer_trained_without_prefixes_loses_its_order() -> None:
    tokenizer = small("causal_v1_0")
    tokenizer.channels = ChannelOrder((8, 8, 8), ORDER, known().fills)
    assert trainer(tokenizer, nested=(1, 2, 3)).averaged.channels is not None
    assert trainer(tokenizer).averaged.channels is None


def test_a_saved_state_continues_bit_for_bit() -> None:
    run, other = (trainer(small("causal_v1_0"), nested=(1, 2, 3)) for _ in range(2))
    torch.manual_seed(0)
    run.train_on(clips(2))
    state = copy.deepcopy(run.state_dict())
    other.load_state_dict(state)
    random = torch.get_rng_state()
    expected = [losses(run, clips(2)) for _ in range(3)]
    torch.set_rng_state(random)
    assert [losses(other, clips(2)) for _ in range(3)] == expected
    one, two = run.averaged.channels, other.averaged.channels
    assert one is not None
    assert two is not None
    for k, fill in one.fills.items():
        assert torch.equal(fill.weight, two.fills[k].weight)
        assert torch.equal(fill.bias, two.fills[k].bias)
    assert [losses(other, clips(2)) for _ in range(3)] != expected
    with pytest.raises(RuntimeError, match="prefixes"):
        trainer(small("causal_v1_0")).load_state_dict(state)
    tokenizer = small("causal_v1_0")
    tokenizer.channels = ChannelOrder((8, 8, 8), ORDER, {})
    with pytest.raises(
        ValueError, match=r"order of channels \(0, 1, 2\): this run has \(2, 0, 1\)"
    ):
        trainer(tokenizer, nested=(1, 2, 3)).load_state_dict(state)


@pytest.mark.parametrize("nested", [(2, 3), (1, 2, 3), (3,)])
def test_a_state_of_other_numbers_of_channels_is_refused(nested: tuple[int, ...]) -> None:
    """Numbers of the same count have maps of the same shapes, which would go to the wrong k."""
    state = trainer(small("causal_v1_0"), nested=(1, 3)).state_dict()
    with pytest.raises(ValueError, match=r"nested = \[1, 3\] in the checkpoint: this run has \["):
        trainer(small("causal_v1_0"), nested=nested).load_state_dict(state)


def test_known_maps_of_several_kernels_are_refused() -> None:
    cell = Fill(torch.zeros(2, 1, 1, 1, 1), torch.zeros(2))
    order = ChannelOrder(LEVELS, ORDER, {1: cell, 2: known().fills[2]})
    with pytest.raises(ValueError, match="kernels of 1×1×1 and 3×3×3, and training needs one"):
        Prefixes(LEVELS, [1, 2, 3], order)
    assert Prefixes(LEVELS, [1, 3], order).weight.shape[3:] == (1, 1, 1)
    assert Prefixes(LEVELS, [2, 3], order).weight.shape[3:] == (3, 3, 3)


@pytest.mark.parametrize(
    ("regularizer", "nested", "says"),
    [
        ("kl", (1, 3), "only FSQ tokenizers have prefixes"),
        ("fsq", (3, 1), "must be in ascending order and end with 3, the number of all channels"),
        ("fsq", (1, 2), "must be in ascending order and end with 3"),
        ("fsq", (0, 3), "must be in ascending order and end with 3"),
        ("fsq", (1, 1, 3), "must be in ascending order and end with 3"),
        ("fsq", (), "must be in ascending order and end with 3"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    regularizer: str, nested: tuple[int, ...], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        TrainedTokenizer(small("causal_v1_0", regularizer), nested=nested)
