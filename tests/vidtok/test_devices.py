"""What runs on an accelerator, checked without one.

The `meta` device takes every branch that a GPU takes: it gives shapes and types, and fails where
two devices meet or where a value is read back in the middle of a network.
"""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from tests.vidtok.deterministic import synthetic_video
from tests.vidtok.small import shallow, small
from vidtok import Tokenizer
from vidtok.temporal import Stream
from vidtok.training import memory
from vidtok.training.network import TrainedTokenizer
from vidtok.training.objective import Objective, ObjectiveConfig

NETWORKS = ("causal_v1_0", "causal_v1_1", "noncausal")


def frames_of(model: Tokenizer) -> int:
    return 17 if model.config.causal else 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("regularizer", ["fsq", "kl"])
@pytest.mark.parametrize("network", NETWORKS)
def test_encodes_and_decodes_away_from_the_cpu(
    network: str, regularizer: str, dtype: torch.dtype
) -> None:
    model = small(network, regularizer)
    video = synthetic_video(2, frames_of(model), 16, 24)
    here = model.encode(video)
    model = model.to("meta", dtype)
    there = model.encode(video)
    for name in ("latent", "indices", "mean", "logvar"):
        expected, found = getattr(here, name), getattr(there, name)
        assert (found is None) == (expected is None)
        if found is not None:
            assert (found.device.type, found.shape, found.dtype) == (
                "meta",
                expected.shape,
                expected.dtype,
            )
    decoded = [model.decode(here.latent, video.shape[2])]
    if here.indices is not None:
        decoded.append(model.decode_indices(here.indices, video.shape[2]))
    for frames in decoded:
        assert (frames.device.type, frames.shape, frames.dtype) == ("meta", video.shape, dtype)


@pytest.mark.parametrize("as_reference", [False, True])
def test_works_in_chunks_away_from_the_cpu(as_reference: bool) -> None:
    model = small("causal_v1_1")
    video = synthetic_video(1, 21, 16, 24)
    latent = model.encode(video).latent
    model = model.to("meta")
    encoded = model.encode(video, chunk_frames=8, as_reference=as_reference)
    assert encoded.latent.shape == latent.shape
    decoded = model.decode(latent, 21, chunk_frames=8, as_reference=as_reference)
    assert decoded.shape == video.shape


def test_encodes_a_stream_of_frames_away_from_the_cpu() -> None:
    model = small("causal_v1_1").to("meta")
    stream = model.encode_stream(21, 8)
    found = [stream.push(piece) for piece in synthetic_video(1, 21, 16, 24).split(5, 2)]
    assert sum(encoded.latent.shape[2] for encoded in found if encoded is not None) == 6


class BetweenDevices(TorchFunctionMode):
    """Records the calls that copy between the host and a device, for which the host waits."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.device.type for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        if func is torch.tensor:
            given = {"cpu"}
        if isinstance(out, Tensor) and given and out.device.type not in given:
            self.found.append(func.__name__)
        return out


@pytest.mark.parametrize("regularizer", ["fsq", "kl"])
@pytest.mark.parametrize("network", NETWORKS)
def test_encoding_what_is_on_the_device_never_waits_for_it(network: str, regularizer: str) -> None:
    """A value that is read back fails on `meta`, and constants are filled in on the device."""
    model = small(network, regularizer).to("meta", torch.float16)
    shape = (2, 3, frames_of(model), 16, 24)
    with BetweenDevices() as copies:
        model.encode(torch.empty(shape, dtype=torch.uint8, device="meta"))
        model.encode(torch.empty(shape, device="meta"), check_range=False)
        if network == "causal_v1_1":
            stream = model.encode_stream(17, 4, check_range=False)
            stream.push(torch.empty(shape, device="meta"))
        assert copies.found == []
        torch.tensor([1.0], device="meta")
        torch.zeros(1).to("meta")
        assert copies.found == ["tensor", "to"]
    with pytest.raises(RuntimeError, match="meta tensors"):
        model.encode(torch.empty(shape, device="meta"))


@pytest.mark.parametrize(
    ("regularizer", "recompute"), [("fsq", False), ("fsq", True), ("kl", False)]
)
@pytest.mark.parametrize("network", NETWORKS)
def test_learns_away_from_the_cpu(network: str, regularizer: str, recompute: bool) -> None:
    model = shallow(network, regularizer).to("meta").train()
    trained = TrainedTokenizer(model)
    if recompute:
        memory.recompute(trained.blocks)
    config = ObjectiveConfig(perceptual_weight=0, discriminator_start=0)
    objective = Objective(config, None).to("meta")
    clips = torch.empty(2, frames_of(model), 32, 32, 3, dtype=torch.uint8, device="meta")
    made = trained(clips, 0)
    assert made.x_hat.shape == made.x.shape
    loss, _ = objective.autoencoder_loss(
        made.x, made.x_hat, made.regularizer, trained.last_weight, 0
    )
    loss.backward()
    objective.discriminator_loss(made.x, made.x_hat, 0)[0].backward()
    for name, weight in (*trained.named_parameters(), *objective.named_parameters()):
        assert weight.grad is not None, name
        assert weight.grad.device.type == "meta", name


@pytest.mark.parametrize("half", ["encoder", "decoder"])
@pytest.mark.parametrize(
    ("network", "device"), [*((network, "meta") for network in NETWORKS), ("causal_v1_1", "cpu")]
)
def test_is_captured_as_one_graph(network: str, half: str, device: str) -> None:
    """`fullgraph=True` refuses whatever splits the graph that a compiler works on.

    The branches of a CPU are in layers that all networks share.
    """
    model = shallow(network, "kl").to(device)
    rule = model.config.time_rule
    module: Callable[[Tensor, Stream], Tensor] = getattr(model, half)
    shape = (1, frames_of(model), 8, 8, 3) if half == "encoder" else (1, 4, 2, 2, 3)
    x = torch.linspace(-1, 1, math.prod(shape)).view(shape).to(device)

    def run(x: Tensor) -> Tensor:
        return module(x, Stream(rule))

    torch.compiler.reset()
    with torch.no_grad():
        expected = run(x.clone())
        captured = torch.compile(run, backend="eager", fullgraph=True)(x.clone())
    assert (captured.shape, captured.dtype) == (expected.shape, expected.dtype)
    if device == "cpu":
        torch.testing.assert_close(captured, expected, rtol=0, atol=2e-5)
