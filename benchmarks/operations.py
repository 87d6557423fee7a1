"""Arithmetic and memory traffic of one call by kind of operation, counted without a device.

    python -m benchmarks.operations --model vidtok_fsq_causal_488_32768 --batch 16

The `meta` device takes the branches of a GPU and computes nothing. TFLOP are multiplications and
additions of convolutions and matrix products. GB are the bytes that an operation reads and writes
if no cache holds them; torch adds a convolution's bias in a pass of its own on CUDA. The largest
tensor shows whether a kernel gets more elements than it counts. `--plain` counts norms by torch's
operations instead of this package's kernels.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import vidtok
from vidtok import norm, ops
from vidtok.presets import named_config

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "float32": torch.float32}
_COPIES = ("copy_", "cat", "clone", "stack", "_to_copy", "fill_", "zero_", "constant_pad_nd")
_ONLY_WRITTEN = ("copy_", "fill_", "zero_")
_KINDS = {
    "native_layer_norm": "layer_norm",
    "silu": "SiLU",
    "silu_": "SiLU",
    "add": "additions",
    "add_": "additions",
    **dict.fromkeys(_COPIES, "copies"),
}


@dataclass
class Count:
    """Sums over the operations of one kind."""

    calls: int = 0
    tflop: float = 0.0
    gigabytes: float = 0.0
    largest: int = 0
    """Number of elements of the largest tensor that an operation takes or gives."""


@dataclass(frozen=True)
class Convolution:
    """Shapes of one convolution, channels before space as torch writes them."""

    x: tuple[int, ...]
    weight: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]


@dataclass
class Operations(TorchDispatchMode):
    """Counts the operations inside its context."""

    kinds: dict[str, Count] = field(default_factory=dict)
    convolutions: dict[Convolution, int] = field(default_factory=dict)
    """Number of calls by shape."""

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        aliases = [each.alias_info for each in func._schema.returns]
        if any(alias is not None and not alias.is_write for alias in aliases):
            return out  # a view
        name = func.overloadpacket.__name__
        if name.startswith(("empty", "new_empty", "detach")):
            return out
        taken = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        given = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        changed = name.endswith("_") and name not in _ONLY_WRITTEN
        made = given if changed else [x for x in given if all(x is not y for y in taken)]
        count = self.add(_kind(func, args), [*taken, *made])
        if func.overloadpacket in flop_registry:
            flop = flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
            count.tflop += flop / 1e12
        if name == "convolution":  # cuDNN keeps channels last; a build without it does not know
            last = torch.channels_last if out.dim() == 4 else torch.channels_last_3d
            out = torch.empty_like(out, memory_format=last)
            shape = Convolution(*map(tuple, (args[0].shape, args[1].shape, args[3], args[4])))
            self.convolutions[shape] = self.convolutions.get(shape, 0) + 1
            if args[2] is not None:
                self.add("biases of convolutions", [out, out])
        return out

    def add(self, kind: str, tensors: list[Tensor]) -> Count:
        """Count one operation that reads or writes some tensors."""
        count = self.kinds.setdefault(kind, Count())
        count.calls += 1
        count.gigabytes += sum(x.numel() * x.element_size() for x in tensors) / 1e9
        count.largest = max(count.largest, *(x.numel() for x in tensors), 0)
        return count


class FusedNorms:
    """Stands for `vidtok.norm_triton`, whose kernels need a device, and counts their passes."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations

    def norm_silu(
        self, x: Tensor, *_: object, front: int = 0, behind: int = 0, **__: object
    ) -> Tensor:
        """Return a tensor of the result's shape, and count one pass."""
        out = x.new_empty((x.shape[0], x.shape[1] + front + behind, *x.shape[2:]))
        self._operations.add("fused norms", [x, out])
        return out

    def add(self, x: Tensor, branch: Tensor, bias: Tensor, out: Tensor | None = None) -> Tensor:
        """Return a tensor of the sum's shape, and count one pass."""
        out = torch.empty_like(x) if out is None else out
        self._operations.add("additions", [x, branch, out])
        return out


@contextmanager
def norms_by(kernels: object | None) -> Iterator[None]:
    """Have networks compute norms by an object like `vidtok.norm_triton`; None: by torch."""
    replaced = norm.kernels
    with ExitStack() as stack:
        for module in [sys.modules[name] for name in sys.modules if name.startswith("vidtok.")]:
            if getattr(module, "kernels", None) is replaced:
                stack.enter_context(patch.object(module, "kernels", lambda x: kernels))
        yield


def _kind(func: Any, args: Any) -> str:
    name = func.overloadpacket.__name__
    if func.namespace != "aten":
        return f"{func.namespace}.{name}"
    if name == "convolution":
        kernel = tuple(args[1].shape[2:])
        if len(kernel) == 3:
            return "3-D convolutions"
        return "time convolutions" if kernel == (3, 1) else "2-D convolutions"
    if func.overloadpacket in flop_registry:
        return "matrix products"
    return _KINDS.get(name, "others")


def counted(
    config: vidtok.TokenizerConfig, batch: int, size: int, dtype: torch.dtype, *, fused: bool = True
) -> dict[str, Operations]:
    """Return the operations of encoding and of decoding clips of 17 (or 16) frames.

    Args:
        fused: whether norms run in this package's kernels, as on CUDA.
    """
    with torch.device("meta"):
        model = vidtok.Tokenizer(config).eval().to(dtype)
    frames = 17 if config.causal else 16
    found = {"encode": Operations(), "decode": Operations()}
    video = torch.zeros(batch, 3, 1, 1, 1).expand(-1, -1, frames, size, size)
    latent = torch.empty(batch, *config.latent_shape(frames, size, size), device="meta")
    calls = {"encode": lambda: model.encode(video), "decode": lambda: model.decode(latent, frames)}
    for direction, call in calls.items():
        operations = found[direction]
        with norms_by(FusedNorms(operations) if fused else None), operations:
            call()
    return found


def table(found: Mapping[str, Operations]) -> str:
    """Return a Markdown table."""
    lines = [
        "| | kind | calls | TFLOP | GB | largest tensor |",
        "| --- | --- | ---: | ---: | ---: | ---: |",
    ]
    for direction, operations in found.items():
        counts = sorted(operations.kinds.items(), key=lambda item: -item[1].tflop or -1e-9)
        total = Count()
        for kind, count in counts:
            lines.append(_line(direction, kind, count))
            total.calls += count.calls
            total.tflop += count.tflop
            total.gigabytes += count.gigabytes
            total.largest = max(total.largest, count.largest)
        lines.append(_line(direction, "all", total))
    return "\n".join(lines)


def _line(direction: str, kind: str, count: Count) -> str:
    over = " (over the limit of a call)" if count.largest > ops.MAX_ELEMENTS else ""
    return (
        f"| {direction} | {kind} | {count.calls} | {count.tflop:.2f} | {count.gigabytes:.1f} "
        f"| {count.largest:,}{over} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vidtok_fsq_causal_488_32768")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=256, help="height and width in pixels")
    parser.add_argument("--precision", choices=DTYPES, default="fp16")
    parser.add_argument("--plain", action="store_true", help="norms by torch's operations")
    asked = parser.parse_args()
    print(f"{asked.model}, batch {asked.batch}, 17×{asked.size}×{asked.size}, {asked.precision}\n")
    config = named_config(asked.model)
    dtype = DTYPES[asked.precision]
    print(table(counted(config, asked.batch, asked.size, dtype, fused=not asked.plain)))


if __name__ == "__main__":
    main()
