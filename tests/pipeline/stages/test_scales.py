"""One decode, several sizes and rates: each column has what its model gives for such frames."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.config.job import ClipConfig, DecodeConfig
from pipeline.config.source import VideoSource
from pipeline.dataset.schema import TokenizerColumn
from pipeline.records import LooseFile, WorkUnit
from pipeline.stages.decode import DecodeStage
from pipeline.stages.messages import BatchRow, decode_rows
from pipeline.stages.tokenize import TokenizeStage
from pipeline.stages.whole_video import whole_cells
from pipeline.tokenizers.encoder import ClipEncoder
from pipeline.tokenizers.protocol import VideoTokenizer
from pipeline.tokenizers.vidtok_adapter import VidTok
from tests.assets import HIKER
from tests.pipeline.fakes import KL
from tests.vidtok.small import small

BASE = replace(KL, dtype="float32", logvar=False)
COLUMNS = [
    replace(BASE, name="full"),
    replace(BASE, name="half", scale=2),
    replace(BASE, name="third", scale=3),
    replace(BASE, name="slow", every=2),
    replace(BASE, name="both", scale=2, every=4),
]


@pytest.fixture(scope="module")
def model() -> VidTok:
    return VidTok(small("causal_v1_1", "kl"))


def direct(model: VideoTokenizer, clip: NDArray[Any], column: TokenizerColumn) -> torch.Tensor:
    """Return the latents of a clip [T, H, W, 3] with plain NumPy in place of the encoder."""
    frames = clip[:: column.every].astype(np.float64)
    t, height, width, _ = frames.shape
    k = column.scale
    means = frames.reshape(t, height // k, k, width // k, k, 3).mean((2, 4)).astype(np.float32)
    video = torch.from_numpy((means / np.float32(255) - np.float32(0.5)) / np.float32(0.5))
    with torch.inference_mode():
        mean = model.encode(video.permute(3, 0, 1, 2)[None]).mean
    assert mean is not None
    return mean[0]


@pytest.mark.parametrize("resize", ["uint8", "float32"])
def test_columns_of_one_decode_are_the_models_own(model: VidTok, resize: str) -> None:
    clip = ClipConfig(frames=9, height=48, width=96, fps=8.0, resize=resize)
    unit = WorkUnit(unit="u", files=(LooseFile(key="h", uri=str(HIKER.path)),))
    source = VideoSource(uri=["unused"])
    with DecodeStage(source, clip, DecodeConfig(), row_clips=2) as decode:
        row = next(iter(decode(unit)))
    assert isinstance(row, BatchRow)
    stage = TokenizeStage([ClipEncoder(model, column, batch=1) for column in COLUMNS])
    stage.prove(9, 48, 96)
    made = decode_rows(stage(row).rows).to_pylist()
    assert len(made) == len(row.frames) == 2
    for found, frames in zip(made, row.frames, strict=True):
        for column in COLUMNS:
            latents = np.frombuffer(found[column.name], "<f4").reshape(
                found[f"{column.name}_shape"]
            )
            expected = direct(model, frames, column)
            if resize == "uint8" or column.scale == 1:
                np.testing.assert_array_equal(latents, expected, column.name)
            else:  # sums of float32 pixels are rounded
                np.testing.assert_allclose(latents, expected, atol=1e-4)
    shapes = {column.name: made[0][f"{column.name}_shape"][1:] for column in COLUMNS}
    f = model.facts.spatial_factor
    assert shapes == {
        "full": [3, 48 // f, 96 // f],
        "half": [3, 24 // f, 48 // f],
        "third": [3, 16 // f, 32 // f],
        "slow": [2, 48 // f, 96 // f],
        "both": [1, 24 // f, 48 // f],
    }


@pytest.mark.parametrize("lengths", [[23], [5, 5, 5, 5, 3], [1] * 23, [2, 7, 1, 13]])
def test_every_counts_through_the_pieces_of_a_whole_video(
    model: VidTok, lengths: Sequence[int]
) -> None:
    rng = np.random.default_rng(3)
    clip = rng.integers(0, 256, (23, 16, 32, 3), np.uint8)
    columns = [replace(BASE, name=f"n{n}", every=n, scale=2) for n in (1, 2, 3, 7)]
    encoders = [ClipEncoder(model, column, batch=1) for column in columns]
    pieces = np.split(clip, np.cumsum(lengths)[:-1])
    cells, finite = whole_cells(encoders, iter(pieces), len(clip), chunk_frames=8)
    assert all(ok.all() for ok in finite.values())
    for column in columns:
        [found] = cells[column.name]
        np.testing.assert_allclose(found, direct(model, clip, column), atol=2e-5)


def test_decoded_back_against_the_frames_that_the_model_got(model: VidTok) -> None:
    rng = np.random.default_rng(4)
    clips = rng.integers(0, 256, (1, 9, 32, 32, 3), np.uint8)
    for column in COLUMNS[:2] + COLUMNS[3:]:
        encoder = ClipEncoder(model, column, batch=1)
        [cells] = encoder(clips)[0][column.name]
        row = {column.name: cells.tobytes(), f"{column.name}_shape": cells.shape}
        small_clip = clips[0, :: column.every].astype(np.float64)
        t, height, width, _ = small_clip.shape
        k = column.scale
        original = np.rint(small_clip.reshape(t, height // k, k, width // k, k, 3).mean((2, 4)))
        video = model.decode(torch.from_numpy(cells)[None], t)[0].permute(1, 2, 3, 0)
        decoded = ((video.clamp(-1, 1) + 1) * 127.5).round().detach().numpy()
        errors = ((original - decoded) ** 2).mean((1, 2, 3))
        expected = (10 * np.log10(255**2 / errors)).mean()
        assert encoder.psnr(row, clips[0]) == pytest.approx(expected, abs=1e-3)
