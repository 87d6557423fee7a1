"""Drawn clips are decoded back from what is stored, and the sums follow from them alone."""

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import vidtok
from pipeline.config.job import JobConfig, TokenizerSpec
from pipeline.dataset.schema import TokenizerColumn
from pipeline.dataset.statistics import PsnrSums, clip_name, merged
from pipeline.job.metrics.metrics import PSNR_CLIPS, PSNR_DB
from pipeline.job.workers import TokenizeWorker, WorkerSettings
from pipeline.records import Bucket
from pipeline.stages.messages import (
    BatchHeader,
    BatchRow,
    Payload,
    decode_rows,
    decoded_row,
    read_payload,
)
from pipeline.stages.tokenize import TokenizeStage, is_drawn
from pipeline.tokenizers.arithmetic import job_arithmetic
from pipeline.tokenizers.encoder import ClipEncoder
from pipeline.tokenizers.models import describe, open_tokenizer
from pipeline.tokenizers.reconstruction import clip_psnr
from pipeline.tokenizers.vidtok_adapter import VidTok
from tests.pipeline.fakes import FSQ, KL, NOT_A_NUMBER, POISON, FakeModel, batch_row, clip
from tests.pipeline.job.metrics.test_metrics import Recorded

BUCKET = Bucket(frames=5, height=32, width=40)
TINY = {"fsq": "vidtok_fsq_causal_488_262144_tiny", "kl": "vidtok_kl_causal_488_8chn_tiny"}


def added(values: Sequence[tuple[str, float | None]]) -> PsnrSums:
    return sum((PsnrSums.of(*value) for value in values), PsnrSums())


@given(
    st.dictionaries(
        st.text("abc", max_size=3), st.none() | st.floats(0, 80, width=32), max_size=12
    ),
    st.data(),
)
def test_the_sums_are_exact_in_any_order_and_grouping(
    psnr_db: dict[str, float | None], data: st.DataObject
) -> None:
    shuffled = data.draw(st.permutations(list(psnr_db.items())))
    cut = data.draw(st.integers(0, len(shuffled)))
    found = added(shuffled[:cut]) + added(shuffled[cut:])
    known = {name: round(1000 * value) for name, value in psnr_db.items() if value is not None}
    assert found == PsnrSums(
        clips=len(known),
        failed=len(psnr_db) - len(known),
        millidecibels=sum(known.values()),
        counts=Counter(value // 1000 for value in known.values()),
        worst=tuple(sorted((value, clip_name(name)) for name, value in known.items())[:3]),
    )
    assert list(found.counts) == sorted(found.counts), "records of equal sums are equal bytes"
    mean = Fraction(sum(known.values()), 1000 * len(known)) if known else None
    assert found.mean_db == (None if mean is None else pytest.approx(float(mean)))


def test_an_id_alone_draws_a_clip() -> None:
    ids = [f"shard-{n // 100}/video {n % 100}/0" for n in range(20_000)]
    drawn = [clip_id for clip_id in ids if is_drawn(clip_id, 100)]
    assert 150 < len(drawn) < 250
    for clip_id in ids[:500]:  # as docs/reference/format.md has it
        digest = hashlib.sha256(b"decode back " + clip_id.encode()).hexdigest()
        assert is_drawn(clip_id, 7) == (int(digest[:16], 16) % 7 == 0)
        assert is_drawn(clip_id, 1)


def fakes(one_in: int | None, batch: int = 4) -> tuple[TokenizeStage, FakeModel]:
    fsq, kl = FakeModel("fsq"), FakeModel("kl")
    encoders = [ClipEncoder(fsq, FSQ, batch=batch), ClipEncoder(kl, KL, batch=batch)]
    return TokenizeStage(encoders, decode_back_one_in=one_in), kl


def alone(row: BatchRow, clips: Iterable[int]) -> dict[str, PsnrSums]:
    """Return what comes of some clips of a row, each in a row of its own."""
    total: dict[str, PsnrSums] = {}
    for n in clips:
        header = replace(row.header, clips=(row.header.clips[n],))
        total = merged(total, fakes(1)[0](BatchRow(header, row.frames[n : n + 1])).header.psnr)
    return total


def test_clips_are_decoded_back_by_themselves() -> None:
    found = fakes(1)[0](batch_row(4))
    assert found.header.timings["decode back"] >= 0
    assert {name: sums.clips for name, sums in found.header.psnr.items()} == {"fsq": 4, "kl": 4}
    assert fakes(1, batch=3)[0](batch_row(4)).header.psnr == found.header.psnr
    assert found.rows == fakes(None)[0](batch_row(4)).rows
    assert alone(batch_row(4), range(4)) == found.header.psnr


def test_only_drawn_clips_are_decoded() -> None:
    row = batch_row(60)
    drawn = [n for n, one in enumerate(row.header.clips) if is_drawn(one.clip_id, 5)]
    tokenize, kl = fakes(5)
    psnr = tokenize(row).header.psnr
    assert kl.decoded == psnr["kl"].clips == len(drawn) > 5
    assert psnr == alone(row, drawn)
    nothing, kl = fakes(None)
    payload = nothing(row)
    assert (payload.header.psnr, kl.decoded) == ({}, 0)
    assert "decode back" not in payload.header.timings


def test_a_clip_in_the_quarantine_is_not_decoded() -> None:
    row = batch_row(4, {1: POISON, 2: NOT_A_NUMBER})
    psnr = fakes(1)[0](row).header.psnr
    assert (psnr["kl"].clips, psnr["kl"].failed) == (2, 0)
    assert psnr == alone(row, [0, 3])


def test_a_clip_that_cannot_be_decoded_keeps_its_tokens(caplog: pytest.LogCaptureFixture) -> None:
    tokenize, kl = fakes(1)
    kl.cannot_decode = {2}
    with caplog.at_level(logging.WARNING):
        payload = tokenize(batch_row(4))
    assert payload.rows == fakes(None)[0](batch_row(4)).rows
    assert payload.header.quarantined == ()
    assert [payload.header.psnr["kl"].clips, payload.header.psnr["kl"].failed] == [3, 1]
    assert payload.header.psnr["fsq"].clips == 4
    assert (
        "u/k/1: kl: the clip cannot be decoded back: OutOfMemoryError: imaginary GPU" in caplog.text
    )


def real_clips() -> BatchRow:
    clips = tuple(replace(clip(n), source_fps=8.0) for n in range(3))
    header = BatchHeader(unit="u", seq=0, bucket=BUCKET, clips=clips)
    ramp = np.linspace(0, 200, 32 * 40 * 3).reshape(32, 40, 3)
    steps = np.arange(15).reshape(3, 5, 1, 1, 1) * 3.0
    return BatchRow(header, (ramp + steps).round().astype(np.uint8))


def by_hand(model: vidtok.Tokenizer, stored: Any, frames: NDArray[np.uint8]) -> int:
    """Return the PSNR in thousandths of a dB of a tensor of cells, decoded."""
    decode = model.decode if stored.is_floating_point() else model.decode_indices
    video = decode(stored[None], num_frames=len(frames))[0].float()
    pixels = (video.clamp(-1, 1) * 127.5 + 127.5).round().permute(1, 2, 3, 0).numpy()
    return round(1000 * clip_psnr(frames, pixels.astype(np.uint8)))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_is_decoded_is_what_is_stored(dtype: str) -> None:
    row = real_clips()
    models = {name: vidtok.load(model).eval() for name, model in TINY.items()}
    kl = replace(KL, dtype=dtype, logvar=False)  # type: ignore[arg-type]
    with job_arithmetic(1):
        encoders = [
            ClipEncoder(VidTok(models["fsq"]), FSQ, batch=1),
            ClipEncoder(VidTok(models["kl"]), kl, batch=1),
        ]
        payload = TokenizeStage(encoders, decode_back_one_in=1)(row)
        wanted: dict[str, list[int]] = {"fsq": [], "kl": [], "not rounded": []}
        for stored, frames in zip(decode_rows(payload.rows).to_pylist(), row.frames, strict=True):
            indices = np.frombuffer(stored["fsq"], "<u4").reshape(stored["fsq_shape"])
            tensor = torch.from_numpy(indices.astype(np.int64))
            wanted["fsq"].append(by_hand(models["fsq"], tensor, frames))
            bits = torch.frombuffer(bytearray(stored["kl"]), dtype=getattr(torch, dtype))
            latent = bits.float().reshape(stored["kl_shape"])
            wanted["kl"].append(by_hand(models["kl"], latent, frames))
            video = torch.from_numpy(frames.copy()).permute(3, 0, 1, 2)[None] / 127.5 - 1
            exact = models["kl"].encode(video).mean
            assert exact is not None
            wanted["not rounded"].append(by_hand(models["kl"], exact[0], frames))
    psnr = payload.header.psnr
    for name, sums in psnr.items():
        assert [value for value, _ in sums.worst] == sorted(wanted[name])
        assert sums.millidecibels == sum(wanted[name])
    assert min(wanted["fsq"]) > 15_000, "these weights are trained"
    if dtype == "bfloat16":
        assert wanted["kl"] != wanted["not rounded"], "else this test could not fail"


def column(name: str, spec: TokenizerSpec) -> TokenizerColumn:
    return replace(FSQ if name == "fsq" else KL, name=name, model=spec.model, logvar=False)


def test_a_worker_reports_what_it_measures() -> None:
    specs = [TokenizerSpec(name=name, model=model) for name, model in TINY.items()]
    settings = WorkerSettings(
        config=JobConfig.model_validate(
            {
                "source": {"uri": "unused"},
                "clip": {"frames": BUCKET.frames, "height": BUCKET.height, "width": BUCKET.width},
                "tokenizers": [spec.model_dump() for spec in specs],
                "tokenize": {"decode_back_one_in": 1},
                "output": {"uri": "unused"},
            }
        ),
        columns=[column(spec.name, spec) for spec in specs],
        digests=[describe(open_tokenizer(spec), spec).digest for spec in specs],
        levels={},
        device="cpu",
    )
    recorded = Recorded()
    threads = torch.get_num_threads()
    try:
        payload = read_payload(TokenizeWorker(settings, recorded)(decoded_row(real_clips())))
    finally:
        torch.set_num_threads(threads)
    assert isinstance(payload, Payload)
    for name, sums in payload.header.psnr.items():
        assert recorded.of(PSNR_CLIPS, name) == sums.clips == 3
        assert recorded.of(PSNR_DB, name) == pytest.approx(sums.millidecibels / 1000)
    assert payload.header.psnr.keys() == TINY.keys()
