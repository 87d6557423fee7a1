"""The example generators learn what little there is to learn, and sample it."""

import io
import math
from dataclasses import replace
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageSequence

import pipeline
import vidtok
from examples import latent_flow, token_transformer
from examples.generators.command import run
from examples.generators.samples import frame_rate, strips
from examples.generators.training import Build
from examples.generators.transformer import (
    Transformer,
    from_patches,
    patch_grid,
    patch_places,
    to_patches,
)
from pipeline.errors import ConfigError
from pipeline.storage.store import Store
from tests.examples.moving_stripes import write_stripes
from tests.examples.runs import AR, FLOW, settings
from tests.pipeline.s3 import S3Server
from vidtok import fsq


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("stripes") / "corpus")
    write_stripes(Store(uri))
    return uri


@pytest.fixture
def bucket(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket of an S3 server that the environment names, as it does for users."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    return s3.bucket()


@pytest.mark.parametrize(("kind", "build", "steps", "to"), [(*AR, 100, 0.5), (*FLOW, 200, 0.7)])
def test_a_generator_learns_and_samples_what_moves(
    corpus: str, tmp_path: Path, kind: str, build: Build, steps: int, to: float
) -> None:
    result = run(settings(corpus, tmp_path, steps=steps, batch=8), kind, build)
    assert result["loss_end"] < to * result["loss_start"]
    assert result["compared"] == 8
    assert len(result["nearest"]) == 2
    with Image.open(tmp_path / "samples.gif") as gif:
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(gif)]
    assert [frame.shape for frame in frames] == [(32, 2 * 32, 3)] * 5
    for before, after in pairwise(frames):
        for sample in (slice(0, 32), slice(32, 64)):
            assert np.abs(before[:, sample].astype(int) - after[:, sample]).mean() > 1
    with Image.open(tmp_path / "samples.jpg") as strips:
        assert strips.size == (5 * 32, 4 * 32 + 2 * (1 + 4))
    with Image.open(tmp_path / "loss.png") as curve:
        assert curve.size == (550, 330)


@pytest.mark.parametrize(("kind", "build"), [AR, FLOW])
def test_the_weights_that_are_written_are_those_that_sampled(
    corpus: str, tmp_path: Path, kind: str, build: Build
) -> None:
    asked = settings(corpus, tmp_path, steps=2)
    run(asked, kind, build)
    snapshot = pipeline.open(corpus)
    [column] = [column for column in snapshot.tokenizers if column.kind == kind]
    generator = build(snapshot, column, replace(asked, seed=7))
    generator.load_state_dict(torch.load(tmp_path / "model.pt"))
    shape = {"indices": (2, 4, 4), "latents": (8, 2, 4, 4)}[kind]
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        drawn.append(generator.sample(3, shape))
    assert drawn[0].shape == (3, *shape)
    assert torch.equal(*drawn)
    assert (generator.distances(drawn[0], drawn[0]).diagonal() < 1e-3).all()


def test_fewer_channels_are_read_generated_and_decoded(corpus: str, tmp_path: Path) -> None:
    asked = settings(corpus, tmp_path, steps=2, channels=4)
    result = run(asked, *AR)
    assert result["loss_start"] == pytest.approx(math.log(8), rel=0.2)
    assert result["bits_per_loss"] == pytest.approx(4 * math.log2(math.e))
    generator = token_transformer.TokenTransformer((8,) * 4, 2, asked.width, asked.depth).eval()
    generator.load_state_dict(torch.load(tmp_path / "model.pt"))
    torch.manual_seed(asked.seed)
    cells = generator.sample(asked.samples, (2, 4, 4))
    model = vidtok.load("vidtok_fsq_causal_488_262144_tiny")
    frames = (model.decode_indices(cells, 5, channels=4).clamp(-1, 1) + 1) * 127.5
    with Image.open(tmp_path / "samples.gif") as gif:
        shown = np.asarray(gif.convert("RGB"), np.float32).reshape(32, 2, 32, 3)
    first = frames[:, :, 0].permute(2, 0, 3, 1).numpy()
    assert np.abs(shown - first).mean() < 8  # a GIF has 256 colours
    with pytest.raises(ConfigError, match="column kl: holds no FSQ indices; columns that do: fsq"):
        run(settings(corpus, tmp_path / "kl", channels=4), *FLOW)


@pytest.mark.s3
@pytest.mark.parametrize(("kind", "build"), [AR, FLOW])
def test_s3_gives_the_same_as_a_disk(
    corpus: str, tmp_path: Path, bucket: str, kind: str, build: Build
) -> None:
    write_stripes(Store(f"{bucket}/corpus"))
    here = run(settings(corpus, tmp_path, steps=2), kind, build)
    there = run(settings(f"{bucket}/corpus", f"{bucket}/out", steps=2), kind, build)
    assert here | {"seconds": 0} == there | {"seconds": 0}
    picture = Store(f"{bucket}/out").read("samples.gif")
    assert picture == (tmp_path / "samples.gif").read_bytes()


def test_latents_are_normalised_by_the_statistics_of_the_whole_corpus(tmp_path: Path) -> None:
    write_stripes(Store(str(tmp_path)))
    snapshot = pipeline.open(str(tmp_path))
    [column] = [column for column in snapshot.tokenizers if column.kind == "latents"]
    latents = torch.stack([row["kl"] for row in snapshot.sample(8)]).double()
    mean, std = latent_flow.channel_statistics(snapshot, column)
    assert torch.allclose(mean.double(), latents.mean((0, 2, 3, 4)), atol=1e-6)
    assert torch.allclose(std.double(), latents.std((0, 2, 3, 4), correction=0), atol=1e-6)
    normalized = latent_flow.LatentFlow(mean, std, 2, 64, 1).normalized(latents)
    assert torch.allclose(normalized.mean((0, 2, 3, 4)), torch.zeros(8), atol=1e-5)


@given(st.lists(st.integers(2, 9), min_size=1, max_size=7), st.data())
def test_digits_and_code_indices(levels: list[int], data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, prod(levels) - 1), min_size=6, max_size=6))
    cells = torch.tensor(indices).view(1, 1, 2, 3)
    digits = token_transformer.to_digits(cells, tuple(levels))
    assert digits.shape == (1, len(levels), 1, 2, 3)
    assert torch.equal(token_transformer.to_indices(digits, tuple(levels)), cells)
    widths = torch.tensor(levels).view(-1, 1, 1, 1) // 2
    codes = fsq.indices_to_codes(cells, tuple(levels)).movedim(-1, 1)
    assert torch.equal(digits, (codes * widths + widths).round().long())


@given(*[st.integers(1, 3)] * 6)
def test_patches(B: int, C: int, t: int, h: int, w: int, p: int) -> None:
    cells = torch.arange(B * C * t * h * p * w * p).view(B, C, t, h * p, w * p)
    grid = patch_grid((t, h * p, w * p), p)
    patches = to_patches(cells, p)
    assert grid == (t, h, w)
    assert patches.shape == (B, t * h * w, p * p * C)
    assert torch.equal(patches[:, 0, :C], cells[:, :, 0, 0, 0])
    assert torch.equal(from_patches(patches, grid, p), cells)


def test_one_patch_after_the_other_gives_what_all_at_once_gives() -> None:
    torch.manual_seed(0)
    transformer, x = Transformer(64, 3), torch.randn(2, 7, 64)
    past: list[list[torch.Tensor]] = [[], [], []]
    places = patch_places((1, 1, 7), x.device)
    steps = [transformer(x[:, n : n + 1], places[n : n + 1], past=past) for n in range(7)]
    assert torch.allclose(torch.cat(steps, 1), transformer(x, places, causal=True), atol=1e-5)


def test_patches_are_told_apart_by_how_far_they_are_from_each_other() -> None:
    torch.manual_seed(0)
    transformer, x = Transformer(64, 2), torch.randn(1, 24, 64)
    places = patch_places((2, 3, 4), x.device)
    assert places[[0, 1, 4, 12]].tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 0], [1, 0, 0]]
    here = transformer(x, places)
    assert torch.allclose(transformer(x, places + torch.tensor([3, 1, 2])), here, atol=1e-4)
    for axis in range(3):
        assert not torch.allclose(
            transformer(x, places * (torch.arange(3) != axis)), here, atol=1e-3
        )


@torch.no_grad()
def test_the_chances_of_all_clips_add_up() -> None:
    # No digit sees itself or what comes after it, and none is taken to be independent.
    torch.manual_seed(0)
    generator = token_transformer.TokenTransformer((3, 2), 1, 64, 1).eval()
    clips = torch.cartesian_prod(torch.arange(6), torch.arange(6)).view(36, 1, 1, 1, 2)
    nats = [float(generator(clip)) * 4 for clip in clips]  # of four digits together
    assert torch.tensor(nats).neg().exp().sum().item() == pytest.approx(1, rel=1e-4)
    assert max(nats) - min(nats) > 0.1


@torch.no_grad()
def test_sampling_draws_with_the_chances_that_the_loss_is_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    generator = token_transformer.TokenTransformer((3, 2), 2, 64, 2).eval()
    clip = torch.randint(6, (1, 2, 4, 4))
    digits = to_patches(token_transformer.to_digits(clip, (3, 2)), 2)
    wanted, nats = iter(digits.flatten().tolist()), []

    def draw_the_clip(chances: torch.Tensor, num: int) -> torch.Tensor:
        digit = next(wanted)
        nats.append(-chances[0, digit].log())
        return torch.tensor([[digit]])

    monkeypatch.setattr(torch, "multinomial", draw_the_clip)
    assert torch.equal(generator.sample(1, (2, 4, 4)), clip)
    assert torch.stack(nats).mean().item() == pytest.approx(float(generator(clip)), rel=1e-4)


def test_a_given_beginning_is_kept_and_continued_as_if_it_had_been_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    generator = token_transformer.TokenTransformer((3, 2), 2, 32, 2).eval()
    draw, drawn = torch.multinomial, []

    def remembered(chances: torch.Tensor, num: int) -> torch.Tensor:
        drawn.append(draw(chances, num))
        return drawn[-1]

    monkeypatch.setattr(torch, "multinomial", remembered)
    whole = generator.sample(2, (3, 4, 4))
    rest = iter(drawn[len(drawn) // 3 :])
    monkeypatch.setattr(torch, "multinomial", lambda chances, num: next(rest))
    assert torch.equal(generator.sample(2, (3, 4, 4), whole[:, :1]), whole)
    assert next(rest, None) is None


def test_the_codebook_is_sampled_whole_and_never_left() -> None:
    torch.manual_seed(0)
    generator = token_transformer.TokenTransformer((3, 2), 1, 32, 1)
    drawn = generator.sample(20, (1, 4, 4))
    assert set(drawn.unique().tolist()) == set(range(6))


def test_a_flow_ends_at_the_latent_that_its_network_tells() -> None:
    mean, std = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0])
    generator = latent_flow.LatentFlow(mean, std, 1, 32, 1)  # its last weights begin as zeros
    with torch.no_grad():
        generator.out.bias.copy_(torch.tensor([1.0, -1.0]))
    drawn = generator.sample(2, (2, 1, 2, 2)).movedim(1, -1)
    assert torch.allclose(drawn, torch.tensor([1.5, -5.0]).expand_as(drawn), atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"steps": 0}, "--steps 0: must be 1 or more"),
        ({"batch": 9}, "--batch 9: .* has {'5x32x32': 8} clips, and each of 1 ranks"),
        ({"patch": 3}, "--patch 3: does not divide latents of 4×4 cells; try --patch 1"),
        ({"width": 40}, "--width 40: must be a multiple of 32"),
        ({"save_every": 0}, "--save-every 0: must be 1 or more"),
        ({"held_out": 1.0}, "--held-out 1.0: must be from 0 to below 1"),
    ],
)
def test_wrong_settings(corpus: str, tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        run(settings(corpus, tmp_path, **changes), *AR)


def test_a_dataset_without_the_kind(corpus: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"of kind vq; it has kl \(latents\), fsq \(indices\)"):
        run(settings(corpus, tmp_path), "vq", token_transformer.build)


def test_samples_have_the_first_rate_of_the_dataset() -> None:
    assert [frame_rate(fps) for fps in (8.0, [24.0, 8.0], [None, 8.0], None)] == [8, 24, 25, 25]


def test_pictures_of_a_clip_lie_in_order() -> None:
    clips = [np.full((5, 8, 8, 3), 50 * n, np.uint8) for n in range(4)]
    with Image.open(io.BytesIO(strips(clips))) as picture:
        column = np.asarray(picture)[:, 4, 0].astype(int)
    # Rows of 8 pixels with 1 or 4 pixels below; JPEG is not exact.
    assert np.abs(column[[3, 12, 24, 33]] - [0, 50, 100, 150]).max() < 10
