"""Arithmetic and memory traffic of one call by kind of operation, counted without a device.

    python -m benchmarks.operations --model vidtok_fsq_causal_488_32768 --batch 16

The `meta` device takes the branches of a GPU and computes nothing. TFLOP are multiplications and
additions of convolutions and matrix products. GB are the bytes that an operation reads and writes
if no cache holds them. The largest tensor shows whether a kernel gets more elements than it counts.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

import vidtok
from vidtok import ops
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
        count = self.kinds.setdefault(_kind(func, args), Count())
        taken = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        given = [x for x in tree_leaves(out) if isinstance(x, Tensor)]
        changed = name.endswith("_") and name not in _ONLY_WRITTEN
        made = given if changed else [x for x in given if all(x is not y for y in taken)]
        count.calls += 1
        count.gigabytes += sum(x.numel() * x.element_size() for x in (*taken, *made)) / 1e9
        count.largest = max(count.largest, *(x.numel() for x in (*taken, *given)), 0)
        if func.overloadpacket in flop_registry:
            flop = flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
            count.tflop += flop / 1e12
        if name == "convolution":
            shape = Convolution(*map(tuple, (args[0].shape, args[1].shape, args[3], args[4])))
            self.convolutions[shape] = self.convolutions.get(shape, 0) + 1
        return out


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
    config: vidtok.TokenizerConfig, batch: int, size: int, dtype: torch.dtype
) -> dict[str, Operations]:
    """Return the operations of encoding and of decoding clips of 17 (or 16) frames."""
    with torch.device("meta"):
        model = vidtok.Tokenizer(config).eval().to(dtype)
    frames = 17 if config.causal else 16
    found = {"encode": Operations(), "decode": Operations()}
    video = torch.zeros(batch, 3, 1, 1, 1).expand(-1, -1, frames, size, size)
    with found["encode"]:
        model.encode(video)
    latent = torch.empty(batch, *config.latent_shape(frames, size, size), device="meta")
    with found["decode"]:
        model.decode(latent, frames)
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
    asked = parser.parse_args()
    print(f"{asked.model}, batch {asked.batch}, 17×{asked.size}×{asked.size}, {asked.precision}\n")
    config = named_config(asked.model)
    print(table(counted(config, asked.batch, asked.size, DTYPES[asked.precision])))


if __name__ == "__main__":
    main()
