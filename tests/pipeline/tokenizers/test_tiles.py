"""Tiles of a job: the same rows, and smaller tiles where the memory of a GPU is too small."""

import io
import re
from dataclasses import replace
from math import isqrt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

import vidtok
from pipeline.config.job import Tile
from pipeline.config.loading import ConfigError
from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.metadata import read_dataset
from pipeline.evaluation.checks import check_evaluation
from pipeline.evaluation.config import EvaluationConfig
from pipeline.job.config_checks import facts_faults, load_config
from pipeline.tokenizers.encoder import ClipEncoder
from pipeline.tokenizers.facts import Facts, vidtok_facts
from pipeline.tokenizers.vidtok_adapter import VidTok
from tests.pipeline.fakes import KL, FakeEncoded, FakeModel, frames
from tests.pipeline.tokenized import hikers
from tests.vidtok.small import small
from vidtok.presets import PRESETS
from vidtok.tile_plan import NoRoomError

FSQ_MODEL = "vidtok_fsq_causal_488_262144_tiny"


class Tiled(FakeModel):
    """A model on an imaginary GPU with room for one clip in tiles of some size."""

    facts = vidtok_facts(PRESETS[FSQ_MODEL])

    def __init__(self, largest_tile: int, clips: int = 1) -> None:
        super().__init__("kl")
        self.largest_tile, self.memory = largest_tile, clips
        self.calls: list[tuple[int, Any]] = []

    def encode(self, video: Tensor, tile: int | str | None = None) -> FakeEncoded:
        self.calls.append((len(video), tile))
        if not isinstance(tile, int) or tile > self.largest_tile:
            raise torch.OutOfMemoryError("imaginary GPU")
        return super().encode(video)

    def smaller_tile(self, size: tuple[int, ...], tile: Tile, *, decoder: bool) -> int | None:
        """Half of the side, at least 64 pixels."""
        side = isqrt(size[1] * size[2])
        half = (min(side, tile) if isinstance(tile, int) else side) // 2 // 8 * 8
        return half if half >= 64 else None


def large(clips: int) -> np.ndarray:
    return frames(clips).repeat(32, 2).repeat(32, 3)  # [N, 5, 512, 768, 3]


def test_out_of_memory_halves_the_batch_and_then_the_tiles() -> None:
    model = Tiled(largest_tile=200)
    cells, _ = ClipEncoder(model, KL, batch=2, tile="auto")(large(2))  # type: ignore[arg-type]
    ladder = [(1, "auto"), (1, 312), (1, 152)]  # half of the square root of the area
    assert model.calls == [(2, "auto"), *ladder, *ladder]
    expected, _ = ClipEncoder(FakeModel("kl"), KL, batch=2)(large(2))  # type: ignore[arg-type]
    np.testing.assert_array_equal(cells["kl"], expected["kl"])


@pytest.mark.parametrize(
    ("tile", "tried"), [(None, [None]), ("auto", ["auto", 312, 152, 72]), (256, [256, 128, 64])]
)
def test_without_room_for_the_smallest_tile_the_error_stays(tile: Any, tried: list[Any]) -> None:
    model = Tiled(largest_tile=8)
    with pytest.raises(torch.OutOfMemoryError):
        ClipEncoder(model, KL, batch=1, tile=tile)(large(1))  # type: ignore[arg-type]
    assert [tile for _, tile in model.calls] == tried


def test_an_estimate_is_not_tried_again() -> None:
    class Full(Tiled):
        def encode(self, video: Tensor, tile: int | str | None = None) -> FakeEncoded:
            self.calls.append((len(video), tile))
            raise NoRoomError("clips of 1×8×512×768: need more")

    model = Full(0)
    with pytest.raises(NoRoomError):
        ClipEncoder(model, KL, batch=4, tile="auto")(large(4))  # type: ignore[arg-type]
    assert model.calls == [(4, "auto")]


class DecodesTiled(Tiled):
    """The same of a decoder, beside an encoder that always has room."""

    def encode(self, video: Tensor, tile: int | str | None = None) -> FakeEncoded:
        return FakeModel.encode(self, video)

    def decode(self, cells: Tensor, num_frames: int, tile: int | str | None = None) -> Tensor:
        self.calls.append((len(cells), tile))
        if not isinstance(tile, int) or tile > self.largest_tile:
            raise torch.OutOfMemoryError("imaginary GPU")
        return super().decode(cells, num_frames)


def row_of(cells: dict[str, Any]) -> dict[str, Any]:
    """The first clip's cells as a row."""
    mean = cells["kl"][0]
    return {"kl": mean.tobytes(), "kl_shape": list(mean.shape)}


def test_out_of_memory_in_decoding_back_makes_tiles_smaller() -> None:
    model, clips = DecodesTiled(largest_tile=200), large(1)
    encoder = ClipEncoder(model, KL, batch=1, tile="auto")  # type: ignore[arg-type]
    row = row_of(encoder(clips)[0])
    found = encoder.psnr(row, clips[0])
    assert model.calls == [(1, "auto"), (1, 312), (1, 152)]
    plain = ClipEncoder(FakeModel("kl"), KL, batch=1)  # type: ignore[arg-type]
    assert found == plain.psnr(row, clips[0])
    model.largest_tile = 8
    with pytest.raises(torch.OutOfMemoryError):
        encoder.psnr(row, clips[0])


@pytest.mark.parametrize("decoder", [False, True])
def test_the_next_tile_is_the_one_that_the_model_names(decoder: bool) -> None:
    model, size = VidTok(small("causal_v1_0", "kl")), (5, 256, 384)
    inside = model.module()
    assert isinstance(inside, vidtok.Tokenizer)
    for tile in (None, 256, 64):
        expected = inside.smaller_tile(size, tile, decoder=decoder)
        assert model.smaller_tile(size, tile, decoder=decoder) == expected
        assert expected is None or tile is None or expected != tile


def test_a_tokenizer_without_tiles_ignores_auto() -> None:
    model = FakeModel("kl")  # its methods take no tile
    model.facts = replace(Tiled.facts, tileable=False)  # type: ignore[attr-defined]
    made, _ = ClipEncoder(model, KL, batch=1, tile="auto")(frames(1))  # type: ignore[arg-type]
    assert made["kl"].shape[0] == 1


def test_tiles_change_no_fingerprint() -> None:
    facts = vidtok_facts(PRESETS[FSQ_MODEL])
    assert facts.tileable
    assert "tileable" not in facts.to_dict()
    assert not Facts.from_dict(facts.to_dict()).tileable


def test_a_job_in_tiles_gives_the_rows_of_whole_pictures(tmp_path: Path) -> None:
    found, kl = {}, {}
    for tile in (None, 16):
        folder = tmp_path / str(tile)
        folder.mkdir()
        store = hikers(folder, tile=tile)
        [unit] = read_manifest(store).units()
        [part] = unit.parts
        table = pq.read_table(io.BytesIO(store.read(part.path)))
        cells = table.select(["clip_index", "fsq", "fsq_shape", "kl_shape"]).to_pydict()
        latents = [np.frombuffer(row, np.float16) for row in table["kl"].to_pylist()]
        found[tile] = cells, read_dataset(store).fingerprint
        kl[tile] = np.stack(latents).astype(np.float32)
    assert found[16] == found[None]
    np.testing.assert_allclose(kl[16], kl[None], rtol=2**-10, atol=1e-4)  # a step of float16


def test_a_whole_video_in_chunks_and_tiles_has_the_same_tokens() -> None:
    model, clip = VidTok(small("causal_v1_1", "kl")), large(1)[0, :, :64, :96]
    column = replace(KL, dtype="float32")
    latents = []
    for tile in (None, 32):
        whole = ClipEncoder(model, column, batch=1, tile=tile).whole_clip(len(clip), 4)
        whole.push(clip)
        latents.append(whole.cells()[0]["kl"])
    np.testing.assert_allclose(latents[0], latents[1], rtol=0, atol=3e-5)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["tokenize.tile=100"], "tile = 100: .* takes a multiple of 8 pixels; use 96 or 104"),
        (["tokenize.tile=4"], "tile = 4: .*; use 8"),
        (["tokenize.tile=0"], "tile = 0: must be a number of pixels such as 512, auto or null"),
        (["tokenize.tile=big"], "tile = big: must be a number of pixels such as 512, auto or null"),
        (["tokenize.tile=true"], "tile = True: must be a number of pixels such as 512"),
        (
            ["tokenize.tile=512", "tokenizers.0.compile=true"],
            r"tile = 512: tokenizers\.0\.compile = true takes whole pictures; set auto or null",
        ),
    ],
)
def test_wrong_tiles_are_refused(overrides: list[str], says: str) -> None:
    with pytest.raises(ConfigError, match=rf"tokenize\.{says}"):
        load_config("pipeline/demo/job.yaml", overrides)


def test_the_default_suits_every_tokenizer_and_a_number_only_those_with_tiles() -> None:
    facts = replace(Tiled.facts, tileable=False)
    for tile, count in (("auto", 0), ("null", 0), ("512", 1)):
        config = load_config("pipeline/demo/job.yaml", [f"tokenize.tile={tile}"])
        faults = [str(fault) for fault in facts_faults(config, 0, facts)]
        assert len(faults) == count
    assert "has no exact tiles; models of VidTok have; set auto or null" in faults[0]
    assert load_config("pipeline/demo/job.yaml").tokenize.tile == "auto"


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"tile": 100}, "tile = 100: .* takes a multiple of 8 pixels"),
        (
            {"tile": 512, "clip": {"chunking": "reference"}},
            "tile = 512: clip.chunking = reference has no exact tiles; leave out one",
        ),
        ({"clip": {"chunking": "reference"}}, None),
    ],
)
def test_an_evaluation_takes_tiles(more: dict[str, Any], says: str | None) -> None:
    values = {"source": "v.mp4", "tokenizers": [FSQ_MODEL], "output": "out", **more}
    faults = check_evaluation(EvaluationConfig.model_validate(values))
    if says is None:
        assert faults == []
    else:
        [fault] = faults
        assert re.search(says, str(fault))
