"""Batches overlap on their way through a device, and none gets the frames of another."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from pipeline.tokenizers.encoder import ClipEncoder
from pipeline.tokenizers.lanes import Lane, StreamedLane, Wait, lane_to
from pipeline.tokenizers.vidtok_adapter import VidTok
from tests.pipeline.fakes import FSQ, KL, FakeModel, batch_row
from tests.pipeline.streams import LazyDevice, RecordedDevice
from tests.vidtok.small import small

BATCH = 4


def some_frames(sizes: Sequence[int], dtype: Any = np.uint8) -> list[NDArray[Any]]:
    """Return frames of as many clips; lengths of clips differ, so buffers grow."""
    rng = np.random.default_rng(len(sizes))
    return [
        rng.integers(0, 256, (size, 1 + n % 3, 2, 2, 3)).astype(dtype)
        for n, size in enumerate(sizes)
    ]


def sums(frames: Tensor) -> Tensor:
    return frames.to(torch.int64).flatten(1).sum(1)


def through(
    lane: Lane, batches: list[NDArray[Any]], ahead: int, compute: Callable[[Tensor], Tensor]
) -> list[list[int]]:
    """Return the sums of each batch's frames; `ahead` batches are queued before one is read."""
    pending: deque[Callable[[], list[Tensor]]] = deque()
    found = []
    for frames in batches:
        pending.append(lane.fetch([compute(lane.send(frames, BATCH))]))
        if len(pending) > ahead:
            found.append(pending.popleft()()[0].tolist())
    return found + [wait()[0].tolist() for wait in pending]


def through_lazy(
    device: LazyDevice, batches: list[NDArray[Any]], slots: int, ahead: int
) -> list[list[int]]:
    def compute(sent: Tensor) -> Tensor:
        out = torch.zeros(BATCH, dtype=torch.int64)
        device.compute(lambda: out.copy_(sums(sent)))
        return out

    return through(StreamedLane(device, slots), batches, ahead, compute)


@given(
    st.lists(st.integers(1, BATCH), min_size=1, max_size=12),
    st.integers(1, 4),
    st.integers(0, 5),
    st.sampled_from([np.uint8, np.float32]),
)
def test_every_batch_gets_its_own_frames(
    sizes: list[int], slots: int, ahead: int, dtype: Any
) -> None:
    batches = some_frames(sizes, dtype)
    wanted = through(Lane(), batches, 0, sums)
    assert through_lazy(LazyDevice(), batches, slots, ahead) == wanted
    assert [sum(row) for row in wanted] == [int(frames.sum()) for frames in batches]


def test_a_buffer_that_is_filled_too_early_would_show() -> None:
    class Hasty(LazyDevice):
        def upload(self, host: Tensor) -> tuple[Tensor, Wait]:
            return super().upload(host)[0], lambda: None

    batches = some_frames([4] * 6)
    wanted = through(Lane(), batches, 0, sums)
    assert through_lazy(Hasty(), batches, slots=2, ahead=1) == wanted
    assert through_lazy(Hasty(), batches, slots=2, ahead=5) != wanted


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gets_the_same_frames() -> None:
    batches = some_frames([1, 4, 2, 3, 4, 4, 1], np.float32)
    assert through(lane_to("cuda"), batches, 2, sums) == through(Lane(), batches, 0, sums)


def test_a_batch_is_queued_before_the_results_of_the_one_in_front_are_read() -> None:
    device = RecordedDevice()

    class Model(FakeModel):
        def encode(self, video: Tensor) -> Any:
            device.asked.append(f"compute {len(self.batches)}")
            return super().encode(video)

    encoder = ClipEncoder(Model("kl"), KL, batch=2, lane=StreamedLane(device))
    frames = batch_row(5).frames
    cells, _ = encoder(frames)
    assert device.asked == [
        *("copy 0", "compute 0", "fetch 0"),
        *("copy 1", "compute 1", "fetch 1", "read 0"),
        *("copy 2", "compute 2", "fetch 2", "read 1"),
        "read 2",
    ]
    expected, _ = ClipEncoder(FakeModel("kl"), KL, batch=2)(frames)
    assert cells.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(cells[name], values)


def test_networks_of_one_device_take_turns_and_frames_do_not_wait() -> None:
    both_sent, inside = threading.Event(), threading.Lock()

    class Device(RecordedDevice):
        def upload(self, host: Tensor) -> tuple[Tensor, Wait]:
            sent = super().upload(host)
            if self.uploads == 2:
                both_sent.set()
            return sent

    class Alone(FakeModel):
        def encode(self, video: Tensor) -> Any:
            assert inside.acquire(blocking=False), "two networks at once"
            try:
                assert both_sent.wait(20), "frames wait for the network"
                time.sleep(0.01)  # for the other call, to come in if it can
                return super().encode(video)
            finally:
                inside.release()

    lane = StreamedLane(Device())
    encoders = [ClipEncoder(Alone(c.name), c, batch=4, lane=lane) for c in (FSQ, KL)]
    frames = batch_row(4).frames
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda encoder: encoder(frames), encoders))
    assert all(finite.all() for _, finite in found)


class MetaDevice(RecordedDevice):
    """Has shapes and no values: an operation that reads a value on it fails."""

    def upload(self, host: Tensor) -> tuple[Tensor, Wait]:
        return host.to("meta"), lambda: None

    def download(self, made: Sequence[Tensor]) -> tuple[list[Tensor], Wait]:
        assert all(tensor.device.type == "meta" for tensor in made)
        return [torch.zeros(tensor.shape, dtype=tensor.dtype) for tensor in made], lambda: None


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("kind", ["fsq", "kl"])
def test_nothing_is_read_from_the_device_before_the_results(
    kind: str, scale: int, dtype: Any
) -> None:
    model = VidTok(small("causal_v1_1", kind).to("meta", torch.float16))
    column = replace(FSQ if kind == "fsq" else KL, scale=scale)
    encoder = ClipEncoder(model, column, batch=2, lane=StreamedLane(MetaDevice()))
    cells, finite = encoder(np.zeros((3, 5, 32, 48, 3), dtype))
    shape = model.facts.latent_shape(5, 32 // scale, 48 // scale)
    assert cells[kind].shape == (3, *(shape[1:] if kind == "fsq" else shape))
    assert finite.tolist() == [False] * 3
    whole = encoder.whole_clip(9, 8)
    for piece in np.zeros((3, 3, 32, 48, 3), dtype):
        whole.push(piece)
    assert whole.cells()[0][kind].shape[-3] == model.facts.latent_shape(9, 32, 48)[1]
