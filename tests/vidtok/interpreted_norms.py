"""Fused norms in Triton's interpreter: `test_norm.py` runs this file in a process of its own."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.vidtok.deterministic import synthetic_video
from tests.vidtok.operations import Operations
from tests.vidtok.small import shallow
from vidtok import Tokenizer, half, norm, norm_triton, ops
from vidtok.norm import NormAct, add
from vidtok.temporal import Rows, Stream
from vidtok.time_rule import RULES
from vidtok.training import memory
from vidtok.training.network import TrainedTokenizer

AROUND = {"alone": (0, 0, "nothing"), "copies": (2, 0, "first"), "zeros": (1, 1, "zeros")}


@pytest.fixture(autouse=True)
def as_on_an_accelerator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ops, "is_cpu", lambda _: False)
    monkeypatch.setattr(half, "cpu_is_fast", lambda _: True)


@contextmanager
def plain() -> Iterator[None]:
    """Compute norms as torch does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(norm, "kernels", lambda x: None)
        patch.setattr("vidtok.temporal.kernels", lambda x: None)
        yield


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 0.5
    return values.to(dtype).requires_grad_()


def expected(x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, around: str) -> Tensor:
    """Compute in float32 what the kernel must give, frames around the clip included."""
    front, behind, fill = AROUND[around]
    y = F.layer_norm(x.float() + shift.float(), x.shape[-1:], weight.float(), bias.float(), 1e-6)
    y = F.silu(y)
    before = y[:, :1] if fill == "first" else torch.zeros_like(y[:, :1])
    return torch.cat([before] * front + [y] + [torch.zeros_like(y[:, :1])] * behind, 1)


CASES = [
    *((torch.float32, 24, around) for around in AROUND),
    (torch.float32, 512, "copies"),
    *((torch.float16, width, "zeros") for width in (96, 256)),
    *((torch.bfloat16, width, "copies") for width in (24, 128)),
]


@pytest.mark.parametrize(("dtype", "width", "around"), CASES)
def test_values_and_gradients_are_those_of_torch(
    dtype: torch.dtype, width: int, around: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With small blocks a frame takes several of them, and a program takes several blocks."""
    columns = 1 << (width - 1).bit_length()
    monkeypatch.setattr(norm_triton, "FORWARD_ELEMENTS", 8 * columns)
    monkeypatch.setattr(norm_triton, "BACKWARD_ELEMENTS", 4 * columns)
    monkeypatch.setattr(norm_triton, "PROGRAMS", 5)
    front, behind, fill = AROUND[around]
    x = drawn(2, 2, 3, 3, width, dtype=dtype)
    shift, weight, bias = (drawn(width, dtype=dtype, seed=seed) for seed in (1, 2, 3))
    found = norm_triton.norm_silu(
        x, weight, bias, 1e-6, shift=shift, front=front, behind=behind, fill=fill
    )
    wanted = expected(x, shift, weight, bias, around)
    assert found.dtype == dtype
    torch.testing.assert_close(found, wanted.to(dtype))
    grad = drawn(*found.shape, dtype=dtype, seed=4).detach()
    inputs = (x, shift, weight, bias)
    gradients = torch.autograd.grad(found, inputs, grad)
    for one, other in zip(
        gradients, torch.autograd.grad(wanted, inputs, grad.float()), strict=True
    ):
        assert one.dtype == dtype
        scale = other.abs().max().item()
        torch.testing.assert_close(
            one, other, rtol=0, atol=scale * max(2e-6, torch.finfo(dtype).eps)
        )


def test_a_norm_without_a_bias_before_it_has_no_gradient_for_one() -> None:
    layer = NormAct(24)
    x = drawn(4, 3, 5, 24)
    layer(x).square().sum().backward()
    found = [x.grad, layer.norm.weight.grad, layer.norm.bias.grad]
    x.grad = layer.norm.weight.grad = layer.norm.bias.grad = None
    with plain():
        layer(x).square().sum().backward()
    torch.testing.assert_close(found, [x.grad, layer.norm.weight.grad, layer.norm.bias.grad])


@pytest.mark.parametrize("layout", ["strip", "permuted", "clips"])
def test_any_layout_of_the_input(layout: str) -> None:
    layer = NormAct(24)
    x = drawn(2, 3, 6, 5, 24).detach()
    view = {"strip": x[:, :, 2:4], "permuted": x.transpose(2, 3), "clips": x[:, 1]}[layout]
    with torch.no_grad():
        found = layer(view)
        with plain():
            torch.testing.assert_close(found, layer(view))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sum_is_written_where_it_belongs(dtype: torch.dtype) -> None:
    x, branch = (drawn(2, 3, 6, 5, 24, dtype=dtype, seed=seed) for seed in (0, 1))
    bias = drawn(24, dtype=dtype, seed=2)
    wanted = (x.float() + branch.float() + bias.float()).to(dtype)
    inputs, grad = (x, branch, bias), drawn(*x.shape, dtype=dtype, seed=3).detach()
    found = torch.autograd.grad(add(*inputs), inputs, grad)
    torch.testing.assert_close(found, torch.autograd.grad(wanted, inputs, grad))
    rows = slice(2, 4)
    with torch.no_grad():
        whole = x.clone()
        strip = whole[:, :, rows]
        add(strip, branch[:, :, rows], bias, out=strip)
        torch.testing.assert_close(whole[:, :, rows], wanted[:, :, rows])
        assert torch.equal(whole[:, :, :2], x[:, :, :2])
        assert torch.equal(whole[:, :, 4:], x[:, :, 4:])


def test_offsets_have_64_bits() -> None:
    """The third clip begins behind 2³¹ elements; pages that nobody touches take no memory."""
    frame = 2 * 8
    apart = (1 << 30) + frame
    store = torch.empty(2 * apart + frame, dtype=torch.float16)
    x = store.as_strided((3, 1, 2, 1, 8), (apart, frame, 8, 8, 1))
    x.copy_(drawn(*x.shape).detach())
    bias = drawn(8).detach()
    wanted = x.float() + x.float() + bias
    assert norm_triton.add(x, x, bias, out=x) is x
    torch.testing.assert_close(x, wanted.half())


def test_a_window_of_a_later_chunk_begins_with_what_came_before() -> None:
    """Two chunks, in strips of rows: the frames in front are those of the chunk before."""
    rule, layer, conv = RULES["causal_v1_1"], NormAct(8), torch.nn.Identity()
    x = drawn(2, 4, 4, 3, 8).detach()

    def windows() -> list[Tensor]:
        stream, found = Stream(rule), []
        for chunk, first in ((x[:, :2], True), (x[:, 2:], False)):
            stream.chunk(first=first, last=not first)
            for rows in (Rows(0, 2, 4), Rows(2, 4, 4)):
                strip = chunk[:, :, rows.start : rows.stop]
                found.append(stream.window(conv, strip, norm=layer, rows=rows))
        return found

    with torch.no_grad():
        found = windows()
        with plain():
            torch.testing.assert_close(found, windows())


def norms_of_torch(calls: dict[str, int]) -> int:
    return sum(calls.get(name, 0) for name in ("native_layer_norm", "silu", "silu_"))


@pytest.mark.parametrize("network", ["causal_v1_1", "noncausal"])
def test_a_network_gives_the_same_values(network: str) -> None:
    model = shallow(network, "kl")
    video = synthetic_video(1, 3 if model.config.causal else 2, 8, 8)

    def run() -> tuple[Tensor, Tensor, int]:
        with Operations() as operations:
            latent = model.encode(video).latent
            frames = model.decode(latent, video.shape[2])
        return latent, frames, norms_of_torch(operations.calls)

    latent, frames, left = run()
    with plain():
        wanted, wanted_frames, all_of_them = run()
    assert left == 2 < all_of_them  # the norms of the attention, which no activation follows
    torch.testing.assert_close(latent, wanted, rtol=0, atol=2e-5)
    torch.testing.assert_close(frames, wanted_frames, rtol=0, atol=2e-5)


def gradients(
    model: Tokenizer, autocast: torch.dtype | None = None, again: bool = False
) -> dict[str, Tensor]:
    clips = (synthetic_video(1, 3 if model.config.causal else 2, 8, 8) + 1) * 127.5
    torch.manual_seed(0)
    trained = TrainedTokenizer(model.train(), autocast=autocast)
    if again:
        memory.recompute(trained.blocks)
    model.zero_grad()
    made = trained(clips.movedim(1, -1).to(torch.uint8), 0)
    ((made.x_hat - made.x).square().mean() + 0.01 * made.regularizer).backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


def test_a_training_step_gives_the_same_gradients() -> None:
    """Also where the backward pass computes each block again."""
    model = shallow("noncausal")
    with plain():
        wanted = gradients(model)
    with Operations() as operations:
        found = gradients(model, again=True)
    assert norms_of_torch(operations.calls) == 2
    largest = max(gradient.norm().item() for gradient in wanted.values())
    for name, gradient in found.items():
        allowed = 2e-4 * (wanted[name].norm() + 1e-4 * largest)
        assert (gradient - wanted[name]).norm() < allowed, name


def test_a_training_step_in_half_precision_gives_nearly_the_same_gradients() -> None:
    model = shallow("causal_v1_1", "kl")
    with plain():
        wanted = gradients(model, autocast=torch.bfloat16)
    found = gradients(model, autocast=torch.bfloat16)
    distance = torch.stack([(found[name] - wanted[name]).norm() for name in found]).norm()
    assert distance < 0.05 * torch.stack([gradient.norm() for gradient in wanted.values()]).norm()
