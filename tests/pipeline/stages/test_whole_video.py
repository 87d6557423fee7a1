"""Whole videos: one row each, with the tokens that the model gives to all of its frames at once."""

import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config.job import ClipConfig, DecodeConfig
from pipeline.config.source import VideoSource
from pipeline.dataset.quantized import quantize
from pipeline.dataset.schema import TokenizerColumn
from pipeline.decode import DecodeLimits, Decoder, clip_rules
from pipeline.errors import PipelineError, StoreError
from pipeline.quarantine import Quarantined, QuarantineError
from pipeline.records import LooseFile, Sample, Span, WorkUnit
from pipeline.stages.decode import DecodeStage
from pipeline.stages.messages import BatchRow, Closing, Payload, decode_rows
from pipeline.stages.tokenize import TokenizerBroken, TokenizeStage
from pipeline.stages.whole_video import sample_of, whole_cells
from pipeline.tokenizers.encoder import ClipEncoder
from pipeline.tokenizers.vidtok_adapter import VidTok
from tests.assets import BROKEN, HIKER, ROTATED, VIDTOK_EXAMPLE
from tests.vidtok.small import small
from vidtok import Tokenizer

CLIP = {
    "whole": True,
    "chunk_frames": 8,
    "fps": 8.0,
    "resize": "uint8",
    "buckets": [{"height": 16, "width": 16}, {"height": 16, "width": 32}],
}
CLIP_CONFIG = ClipConfig.model_validate(CLIP)
RULES = clip_rules(CLIP_CONFIG.identity())
LIMITS = DecodeLimits()
KL = TokenizerColumn(
    name="kl",
    kind="latents",
    dtype="float32",
    axes=("c", "t", "h", "w"),
    model="small",
    fingerprint="f",
    logvar=True,
)


@pytest.fixture(scope="module")
def model() -> Tokenizer:
    return small("causal_v1_1", "kl")


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(RULES, LIMITS) as decoder:
        yield decoder


@pytest.fixture(scope="module")
def sound() -> tuple[list[BatchRow], Closing]:
    return decoded({"h": HIKER.path, "e": VIDTOK_EXAMPLE.path})


def decoded(files: dict[str, Path]) -> tuple[list[BatchRow], Closing]:
    unit = WorkUnit(unit="u", files=tuple(LooseFile(key=k, uri=str(p)) for k, p in files.items()))
    source = VideoSource(uri=["unused"], max_video_mb=100)
    with DecodeStage(source, CLIP_CONFIG, DecodeConfig(), row_clips=4) as stage:
        *rows, closing = stage(unit)
    assert all(isinstance(row, BatchRow) for row in rows)
    assert isinstance(closing, Closing)
    return rows, closing


def test_a_video_is_one_clip_with_the_tokens_of_all_its_frames(
    model: Tokenizer, decoder: Decoder, sound: tuple[list[BatchRow], Closing]
) -> None:
    rows, closing = sound
    assert [row.header.bucket.name for row in rows] == ["allx16x32", "allx16x16"]
    assert closing.digests == tuple(row.header.digest() for row in rows)
    assert closing.counts.clips_written == closing.counts.samples_with_clips == 2
    encoder = ClipEncoder(VidTok(model), KL, batch=1)
    stage = TokenizeStage([encoder], [decoder], chunk_frames=8)
    for row, asset in zip(rows, (HIKER, VIDTOK_EXAMPLE), strict=True):
        [clip] = row.header.clips
        assert (clip.num_frames, clip.padded_frames) == (asset.picks_at_8_fps, 0)
        assert clip.end_s == pytest.approx(asset.picks_at_8_fps / 8)
        payload = stage(row)
        [made] = decode_rows(payload.rows).to_pylist()
        frames = whole_frames(asset.path, row)
        video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
        expected = model.encode(video, chunk_frames=8)
        assert made["num_frames"] == asset.picks_at_8_fps
        assert made["kl_shape"] == list(expected.mean.shape[1:])
        for name, values in (("kl", expected.mean), ("kl_logvar", expected.logvar)):
            found = np.frombuffer(made[name], "<f4").reshape(made["kl_shape"])
            np.testing.assert_allclose(found, values[0], atol=2e-5)


def test_the_range_of_latents_is_that_of_the_whole_video(
    model: Tokenizer, decoder: Decoder, sound: tuple[list[BatchRow], Closing]
) -> None:
    row = sound[0][0]
    made = {}
    for column in (replace(KL, logvar=False), replace(KL, dtype="uint8", bits=8, logvar=False)):
        stage = TokenizeStage([ClipEncoder(model, column, batch=1)], [decoder], chunk_frames=8)
        [made[column.dtype]] = decode_rows(stage(row).rows).to_pylist()
    exact = np.frombuffer(made["float32"]["kl"], "<f4").reshape(1, *made["float32"]["kl_shape"])
    cells, scales = quantize(exact, 8)
    assert made["uint8"]["kl"] == cells.tobytes()
    assert made["uint8"]["kl_scale"] == scales[0].tolist()


@pytest.mark.parametrize("decoders", [1, 2])
def test_videos_of_overlapping_rows_do_not_mix(
    model: Tokenizer, decoder: Decoder, sound: tuple[list[BatchRow], Closing], decoders: int
) -> None:
    rows, encoder = sound[0], ClipEncoder(VidTok(model), KL, batch=1)
    alone = [TokenizeStage([encoder], [decoder], chunk_frames=8)(row).rows for row in rows]
    stage = TokenizeStage(
        [encoder], [Decoder(RULES, LIMITS) for _ in range(decoders)], chunk_frames=8
    )
    with closing(stage), ThreadPoolExecutor(2) as pool:
        assert [payload.rows for payload in pool.map(stage, rows * 2)] == alone * 2


def whole_frames(path: Path, row: BatchRow) -> np.ndarray:
    """Decode a video as one long clip of its bucket, by another way than pieces."""
    [clip], bucket = row.header.clips, row.header.bucket
    shape = {"frames": clip.num_frames, "height": bucket.height, "width": bucket.width}
    rules = clip_rules({"fps": 8.0, "short": "drop", "resize": "uint8"} | shape)
    with Decoder(rules, LIMITS) as decoder:
        sample = Sample(key="k", video=str(path), video_name=path.name)
        [(_, frames)] = decoder.decode(sample, "u")
    assert frames is not None
    return frames


def test_a_broken_video_is_lost_whole() -> None:
    [broken] = [asset for asset in BROKEN if asset.name == "truncated_half.mp4"]
    rows, closing = decoded({"bad": broken.path, "one": ROTATED[0].path})
    [row] = rows
    [clip] = row.header.clips
    assert (row.header.seq, clip.key, clip.num_frames) == (0, "one", 1)
    assert [q.reason for q in closing.quarantined] == ["truncated"]
    assert closing.quarantined[0].clip_index is None
    assert closing.counts.imbalance() is None


def test_a_span_is_decoded_again_as_the_same_span(sound: tuple[list[BatchRow], Closing]) -> None:
    rows, _ = sound
    span = Span(start_s=1.0, end_s=2.5)
    row = BatchRow(replace(rows[0].header, span=span), rows[0].frames)
    assert sample_of(row).span == span
    assert sample_of(row).video == HIKER.path.read_bytes()


class TestFaults:
    def test_a_video_that_fails_alone_is_quarantined(
        self, model: Tokenizer, decoder: Decoder, sound: tuple[list[BatchRow], Closing]
    ) -> None:
        row, payload = self.tokenized(model, decoder, sound, lambda video: bool(video.max() > -1))
        [fault] = payload.header.quarantined
        assert isinstance(fault, Quarantined)
        assert (fault.reason, fault.detail) == ("tokenizer_error", "RuntimeError: no such kernel")
        assert decode_rows(payload.rows).num_rows == 0
        assert payload.header.clip_ids == (row.header.clips[0].clip_id,)

    def test_a_model_that_fails_on_black_is_broken(
        self, model: Tokenizer, decoder: Decoder, sound: tuple[list[BatchRow], Closing]
    ) -> None:
        with pytest.raises(TokenizerBroken, match="and on a black clip: RuntimeError: no such"):
            self.tokenized(model, decoder, sound, lambda video: True)

    @pytest.mark.parametrize(
        "error",
        [
            torch.OutOfMemoryError("imaginary GPU"),
            MemoryError("no room for an array"),
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        ],
    )
    def test_a_lack_of_memory_costs_no_video(
        self,
        model: Tokenizer,
        decoder: Decoder,
        sound: tuple[list[BatchRow], Closing],
        error: Exception,
    ) -> None:
        with pytest.raises(type(error), match=str(error)):
            self.tokenized(model, decoder, sound, lambda video: bool(video.max() > -1), error)

    @pytest.mark.parametrize("kind", [StoreError, PipelineError])
    def test_a_fault_of_the_disk_or_the_process_costs_no_video(
        self,
        model: Tokenizer,
        sound: tuple[list[BatchRow], Closing],
        monkeypatch: pytest.MonkeyPatch,
        kind: type[PipelineError],
    ) -> None:
        def fail(*_: object) -> None:
            raise kind("no space left")

        monkeypatch.setattr(Decoder, "start", fail)
        stage = TokenizeStage(
            [ClipEncoder(VidTok(model), KL, batch=1)], [Decoder(RULES, LIMITS)], chunk_frames=8
        )
        with closing(stage), pytest.raises(kind, match="no space left"):
            stage(sound[0][0])

    def test_a_failed_call_leaves_nothing_to_the_next_one(
        self, model: Tokenizer, decoder: Decoder, sound: tuple[list[BatchRow], Closing]
    ) -> None:
        """Its error, which another thread may still log, holds the video that it decoded."""
        with pytest.raises(TokenizerBroken) as held:
            self.tokenized(model, decoder, sound, lambda video: True)
        row = sound[0][1]
        encoder = ClipEncoder(VidTok(model), KL, batch=1)
        payload = TokenizeStage([encoder], [decoder], chunk_frames=8)(row)
        assert payload.header.quarantined == ()
        with Decoder(RULES, LIMITS) as fresh:
            expected = TokenizeStage([encoder], [fresh], chunk_frames=8)(row)
        assert payload.rows == expected.rows
        assert held.tb is not None

    def tokenized(
        self,
        model: Tokenizer,
        decoder: Decoder,
        sound: tuple[list[BatchRow], Closing],
        fails: Callable[[torch.Tensor], bool],
        error: Exception | None = None,
    ) -> tuple[BatchRow, Payload]:
        class Failing:
            def encode_stream(self, num_frames: int, chunk_frames: int) -> "Failing":
                return self

            def push(self, video: torch.Tensor) -> object:
                if fails(video):
                    raise error or RuntimeError("no such kernel")
                return model.encode(video)

        rows, _ = sound
        encoder = ClipEncoder(Failing(), KL, batch=1)  # type: ignore[arg-type]
        return rows[0], TokenizeStage([encoder], [decoder], chunk_frames=8)(rows[0])

    def test_a_video_that_is_sound_no_more_costs_no_record(
        self, model: Tokenizer, decoder: Decoder, sound: tuple[list[BatchRow], Closing]
    ) -> None:
        rows, _ = sound
        cut = BatchRow(rows[0].header, rows[0].frames[:, :, :, :-20_000])
        stage = TokenizeStage([ClipEncoder(VidTok(model), KL, batch=1)], [decoder], chunk_frames=8)
        with pytest.raises(QuarantineError):
            stage(cut)

    def test_another_number_of_frames_is_noticed(self, model: Tokenizer) -> None:
        frames = np.zeros((8, 16, 16, 3), np.uint8)
        encoder = ClipEncoder(VidTok(model), KL, batch=1)
        with pytest.raises(ValueError, match="8 frames, but the first decode found 16"):
            whole_cells([encoder], iter([frames]), 16, 8)
        with pytest.raises(ValueError, match="more frames"):
            whole_cells([encoder], iter([frames, frames]), 8, 8)


def test_memory_does_not_grow_with_the_video(model: Tokenizer) -> None:
    """What Python and numpy hold; twenty times the frames take as much, except for the tokens."""
    encoder = ClipEncoder(VidTok(model), KL, batch=1)
    peaks = []
    for count in (4, 80):
        pieces = (np.full((8, 32, 32, 3), n, np.uint8) for n in range(count))
        tracemalloc.start()
        cells, _ = whole_cells([encoder], pieces, 8 * count, 8)
        peaks.append(tracemalloc.get_traced_memory()[1] - 3 * cells["kl"].nbytes)
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 200_000
