"""A clip's tokens are its own: whatever its neighbours are, and whatever becomes of them."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dataset.quantized import quantize
from pipeline.stages.messages import (
    BatchRow,
    Payload,
    PayloadHeader,
    decode_rows,
    decoded_row,
    payload_row,
    read_decoded_row,
    read_payload,
)
from pipeline.stages.tokenize import TokenizerBroken, TokenizeStage
from pipeline.tokenizers.encoder import ClipEncoder
from pipeline.tokenizers.lanes import StreamedLane, Wait
from tests.pipeline.fakes import FSQ, KL, NOT_A_NUMBER, POISON, FakeModel, batch_row
from tests.pipeline.streams import RecordedDevice


def stage(
    batch: int = 4, kl_batch: int | None = None
) -> tuple[TokenizeStage, FakeModel, FakeModel]:
    fsq, kl = FakeModel("fsq"), FakeModel("kl")
    encoders = [
        ClipEncoder(fsq, FSQ, batch=batch),
        ClipEncoder(kl, KL, batch=kl_batch or batch),
    ]
    return TokenizeStage(encoders), fsq, kl


def test_one_row_per_clip_with_the_cells_of_every_tokenizer() -> None:
    tokenize, _, _ = stage()
    row = batch_row(4)
    payload = tokenize(row)
    table = decode_rows(payload.rows)
    assert table["clip_id"].to_pylist() == list(payload.header.clip_ids)
    assert payload.header.digest == row.header.digest()
    assert table["fsq_shape"].to_pylist() == [[5, 2, 3]] * 4
    assert table["kl_shape"].to_pylist() == [[3, 5, 2, 3]] * 4

    video = torch.from_numpy(row.frames.copy()).permute(0, 4, 1, 2, 3) / 255 * 2 - 1
    mean = torch.nn.functional.avg_pool3d(video, (1, 8, 8))
    indices = np.frombuffer(b"".join(table["fsq"].to_pylist()), "<u4").reshape(4, 5, 2, 3)
    stored = np.frombuffer(b"".join(table["kl"].to_pylist()), "<f2").reshape(4, 3, 5, 2, 3)
    logvar = np.frombuffer(b"".join(table["kl_logvar"].to_pylist()), "<f2").reshape(stored.shape)
    np.testing.assert_allclose(stored, mean.numpy(), atol=1e-3)  # float16
    np.testing.assert_array_equal(logvar, -np.abs(stored))
    np.testing.assert_allclose(indices, (mean[:, 0].numpy() + 1) * 1000, atol=1.001)


@pytest.mark.parametrize(
    ("batch", "kl_batch", "shapes"), [(4, 4, [4]), (8, 8, [8]), (3, 2, [3, 3])]
)
def test_the_network_sees_one_shape_only(batch: int, kl_batch: int, shapes: list[int]) -> None:
    tokenize, fsq, kl = stage(batch, kl_batch)
    expected, _, _ = stage(4)
    assert tokenize(batch_row(4)).rows == expected(batch_row(4)).rows
    assert fsq.batches == shapes
    assert set(kl.batches) == {kl_batch}


def test_a_guilty_clip_goes_alone(caplog: pytest.LogCaptureFixture) -> None:
    tokenize, fsq, _ = stage()
    payload = tokenize(batch_row(4, {2: POISON}))
    error = "RuntimeError: device says no with a second line"
    assert caplog.messages == [
        f"u: row 0: the batch failed and is retried clip by clip: {error}",
        f"quarantined u/k/2: tokenize: tokenizer_error: {error}",
    ]
    [lost] = payload.header.quarantined
    assert (lost.clip_index, lost.stage, lost.reason) == (2, "tokenize", "tokenizer_error")
    assert lost.detail == error
    table = decode_rows(payload.rows)
    assert table["clip_index"].to_pylist() == [0, 1, 3]
    assert set(fsq.batches) == {4}, "retries keep the fixed shape"

    healthy = decode_rows(stage()[0](batch_row(4, {2: 0})).rows).filter([True, True, False, True])
    assert table.equals(healthy), "its neighbours' tokens are those of a healthy batch"


def test_a_clip_that_is_not_finite_goes_alone() -> None:
    tokenize, _, _ = stage()
    payload = tokenize(batch_row(4, {0: NOT_A_NUMBER}))
    [lost] = payload.header.quarantined
    assert (lost.clip_index, lost.reason) == (0, "non_finite")
    assert lost.detail == "fsq, kl: NaN or infinity among the latents"
    assert decode_rows(payload.rows)["clip_index"].to_pylist() == [1, 2, 3]


def test_latents_that_overflow_their_stored_type_are_not_finite() -> None:
    class Huge(FakeModel):
        def encode(self, video: torch.Tensor):
            encoded = super().encode(video)
            assert encoded.mean is not None
            encoded.mean[1] = 1e6
            return encoded

    cells, finite = ClipEncoder(Huge("kl"), KL, batch=4)(batch_row(3).frames)
    assert finite.tolist() == [True, False, True]
    assert set(cells) == {"kl", "kl_logvar"}


def test_latents_with_a_scale() -> None:
    column = replace(KL, dtype="uint8", bits=7, logvar=False)
    row = batch_row(5, {1: NOT_A_NUMBER})
    encoder = ClipEncoder(FakeModel("kl"), column, batch=2)
    floats = replace(column, dtype="float32", bits=None)
    exact, _ = ClipEncoder(FakeModel("kl"), floats, batch=2)(row.frames)
    cells, finite = encoder(row.frames)
    assert finite.tolist() == [True, False, True, True, True]
    for n in np.flatnonzero(finite):
        [wanted], [scale] = quantize(exact["kl"][[n]], 7)
        np.testing.assert_array_equal(cells["kl"][n], wanted)
        np.testing.assert_array_equal(cells["kl_scale"][n], scale)
    payload = TokenizeStage([encoder])(row)
    [lost] = payload.header.quarantined
    assert (lost.clip_index, lost.reason) == (1, "non_finite")
    table = decode_rows(payload.rows)
    assert table["kl"][1].as_py() == cells["kl"][2].tobytes()
    assert table["kl_scale"][1].as_py() == cells["kl_scale"][2].tolist()


def on_streams(device: RecordedDevice, batch: int, memory: int, **model: Any) -> TokenizeStage:
    lane = StreamedLane(device)
    fakes = {"fsq": FakeModel("fsq"), "kl": FakeModel("kl")} | model
    for fake in fakes.values():
        fake.memory = memory
    return TokenizeStage(
        [ClipEncoder(fakes[column.name], column, batch=batch, lane=lane) for column in (FSQ, KL)]
    )


@given(
    st.lists(
        st.lists(st.sampled_from([0, 0, POISON, NOT_A_NUMBER]), min_size=1, max_size=7),
        min_size=1,
        max_size=4,
    ),
    st.integers(1, 4),
    st.integers(1, 5),
)
@settings(max_examples=30)
def test_overlapping_rows_have_the_results_and_failures_of_rows_alone(
    marks: list[list[int]], batch: int, memory: int
) -> None:
    rows = [batch_row(len(row), {n: m for n, m in enumerate(row) if m}) for row in marks]
    overlapping = on_streams(RecordedDevice(), batch, memory)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(overlapping, rows))
    for row, payload in zip(rows, found, strict=True):
        alone = stage(batch)[0](row)
        assert payload.rows == alone.rows
        assert payload.header.quarantined == alone.header.quarantined
        assert payload.header.digest == alone.header.digest


def test_a_row_is_computed_while_another_is_read() -> None:
    """The first row waits for its results until the second row has been through the network."""
    computed = threading.Event()
    in_time = []

    class Patient(RecordedDevice):
        def download(self, made: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], Wait]:
            hosts, _ = super().download(made)
            if self.downloads > 1:
                return hosts, lambda: None
            return hosts, lambda: in_time.append(computed.wait(20))

    class Model(FakeModel):
        def encode(self, video: torch.Tensor) -> Any:
            if len(self.batches) == 1:
                computed.set()
            return super().encode(video)

    rows = [batch_row(3), batch_row(4)]
    tokenize = on_streams(Patient(), 4, 4, fsq=Model("fsq"))
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(tokenize, rows))
    assert in_time == [True]
    assert [payload.rows for payload in found] == [stage()[0](row).rows for row in rows]


def test_seconds_of_overlapping_rows_count_once() -> None:
    rows = [batch_row(4) for _ in range(6)]
    tokenize = on_streams(RecordedDevice(), 1, 1)
    began = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(tokenize, rows))
    elapsed = time.monotonic() - began
    seconds = [payload.header.timings for payload in found]
    assert all(timings.keys() == {"tokenize fsq", "tokenize kl"} for timings in seconds)
    assert 0 < sum(sum(timings.values()) for timings in seconds) <= elapsed


def test_all_clips_of_a_batch_can_be_lost() -> None:
    payload = stage()[0](batch_row(2, {0: POISON, 1: NOT_A_NUMBER}))
    assert [q.reason for q in payload.header.quarantined] == ["tokenizer_error", "non_finite"]
    assert decode_rows(payload.rows).num_rows == 0


def test_a_broken_model_costs_no_clip() -> None:
    tokenize, _, kl = stage()
    kl.broken = True
    with pytest.raises(TokenizerBroken, match="and on a black clip: RuntimeError: device says no"):
        tokenize(batch_row(4))


def test_out_of_memory_halves_the_shape(caplog: pytest.LogCaptureFixture) -> None:
    tokenize, fsq, kl = stage(8)
    kl.memory = 3
    expected, _, _ = stage(8)
    row = batch_row(5)
    assert tokenize(row).rows == expected(row).rows
    assert kl.batches == [8, 4, 2, 2, 4, 2]
    told = [
        f"not enough memory for a batch of {batch} clips; trying {batch // 2}"
        for batch in (8, 4, 4)
    ]
    assert caplog.messages == [f"u: row 0: kl: {text}" for text in told]
    kl.memory = 0
    with pytest.raises(TokenizerBroken, match="OutOfMemoryError"):
        tokenize(row)
    assert fsq.batches[0] == 8


def test_a_lack_of_memory_costs_no_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where torch has no class for it: on a CPU, and in libraries of CUDA."""
    error = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"
    monkeypatch.setattr("tests.pipeline.fakes.FakeModel.failure", error)
    with pytest.raises(RuntimeError, match="allocate memory"):
        stage()[0](batch_row(4, {2: POISON}))


def test_bfloat16_cells_are_its_bit_patterns() -> None:
    column = replace(KL, dtype="bfloat16", logvar=False)
    frames = batch_row(2).frames
    cells, _ = ClipEncoder(FakeModel("kl"), column, batch=2)(frames)
    exact, _ = ClipEncoder(FakeModel("kl"), replace(column, dtype="float32"), batch=2)(frames)
    bits = cells["kl"].astype(np.uint32) << 16
    np.testing.assert_allclose(bits.view(np.float32), exact["kl"], rtol=2**-8)


def test_float_frames_keep_their_fractions() -> None:
    row = batch_row(2)
    fine = row.frames.astype(np.float32) + np.float32(0.25)
    exact = ClipEncoder(FakeModel("kl"), KL, batch=2)
    assert not np.array_equal(exact(fine)[0]["kl"], exact(row.frames)[0]["kl"])


def test_records_survive_the_trip_through_ray_rows() -> None:
    row = batch_row(3)
    back = read_decoded_row(decoded_row(row))
    assert isinstance(back, BatchRow)
    assert back.header == row.header
    assert np.shares_memory(back.frames, row.frames)

    payload = stage()[0](row)
    block = payload_row(payload)
    assert block["num_clips"].to_pylist() == [3]
    assert read_payload(block) == payload
    assert isinstance(payload, Payload)
    assert isinstance(payload.header, PayloadHeader)
