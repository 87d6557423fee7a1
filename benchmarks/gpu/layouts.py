"""Ways to compute the convolutions over time, at the shapes of the network.

The choice for GPUs is in `vidtok.ops`: cuDNN's NDHWC kernels for wide 3-D convolutions, 2-D
convolutions over (T, H·W) for those over time alone.
"""

import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.report import Report
from benchmarks.gpu.speed import rounds
from benchmarks.gpu.ways import PRECISIONS, Setup, arithmetic, model_on_cpu
from benchmarks.operations import Convolution, counted

Ways = dict[str, Callable[[], Tensor]]


def layouts(report: Report, setup: Setup, name: str, precision: str, batch: int) -> None:
    """Add a row per shape and way: milliseconds, TFLOP/s, largest difference from the first way."""
    config = model_on_cpu(name, setup.quick).config
    shapes: dict[Convolution, None] = {}
    for operations in counted(config, batch, setup.size, PRECISIONS[precision]).values():
        shapes |= dict.fromkeys(operations.convolutions)
    for shape in shapes:
        kernel = shape.weight[2:]
        if report.over:
            report.add("not run", what=f"layouts of {shape.x} with {shape.weight}")
        elif len(kernel) == 3 and min(shape.weight[:2]) > 3 * (not setup.quick):
            _compare(report, setup, shape, precision, _in_space_and_time)
        elif kernel == (3, 1):
            _compare(report, setup, shape, precision, _in_time)


def _compare(
    report: Report,
    setup: Setup,
    shape: Convolution,
    precision: str,
    ways_of: Callable[[Tensor, Tensor, tuple[int, ...], tuple[int, ...]], Ways],
) -> None:
    dtype, cudnn = PRECISIONS[precision], torch.backends.cudnn
    x, weight = (torch.randn(s, device=setup.device).to(dtype) for s in (shape.x, shape.weight))
    weight = weight / weight[0].numel() ** 0.5
    flop = 0.0
    where = {"x": "×".join(map(str, shape.x)), "kernel": "×".join(map(str, shape.weight))}
    for searched in (False, True) if setup.cuda else (False,):
        cudnn.benchmark = searched
        try:
            with torch.no_grad(), arithmetic(precision):
                ways = ways_of(x, weight, shape.stride, shape.padding)
                results = {way: call() for way, call in ways.items()}
                first = next(iter(results.values()))
                flop = 2 * first.numel() * weight[0].numel()
                apart = {way: (y - first).abs().max().item() for way, y in results.items()}
                del results, first
                seconds = rounds(ways, setup, 0.05)
        except Exception as error:
            why = type(error).__name__
            report.add("layouts", **where, searched=searched, way=why)
            continue
        finally:
            cudnn.benchmark = False
        for way, each in seconds.items():
            middle = statistics.median(each)
            report.add(
                "layouts",
                **where,
                stride="×".join(map(str, shape.stride)),
                searched=searched,
                way=way,
                ms=1000 * middle,
                tflops=flop / middle / 1e12,
                difference=apart[way],
            )
    if setup.cuda:
        torch.cuda.empty_cache()


def _in_space_and_time(
    x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]
) -> Ways:
    """Ways for x `[B, C, T, H, W]`; all but `NCDHW` find and leave channels last in memory."""
    last = x.permute(0, 2, 3, 4, 1).contiguous()
    first_x, first_weight = x.contiguous(), weight.contiguous()
    last_weight = weight.contiguous(memory_format=torch.channels_last_3d)
    taps, step = weight.shape[2], stride[0]
    frames = (x.shape[2] - taps) // step + 1
    flat = weight.transpose(1, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)
    each = [w.contiguous(memory_format=torch.channels_last) for w in weight.unbind(2)]

    def views() -> list[Tensor]:
        return [last[:, i : i + step * (frames - 1) + 1 : step] for i in range(taps)]

    def pictures(y: Tensor) -> Tensor:
        return y.view(x.shape[0], frames, *y.shape[1:]).movedim(2, 1)

    def as_channels() -> Tensor:
        joined = torch.cat(views(), -1).flatten(0, 1).permute(0, 3, 1, 2)
        return pictures(F.conv2d(joined, flat, None, 1, padding[1:]))

    def summed() -> Tensor:
        total = None
        for view, w in zip(views(), each, strict=True):
            y = F.conv2d(view.flatten(0, 1).permute(0, 3, 1, 2), w, None, 1, padding[1:])
            total = y if total is None else total.add_(y)
        assert total is not None
        return pictures(total)

    return {
        "NDHWC": lambda: F.conv3d(last.permute(0, 4, 1, 2, 3), last_weight, None, stride, padding),
        "NCDHW": lambda: F.conv3d(first_x, first_weight, None, stride, padding),
        "frames as channels of a 2-D one": as_channels,
        "sum of three 2-D ones": summed,
    }


def _in_time(x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> Ways:
    """Ways for x `[B, C, T, H·W]` with a kernel of three over T alone."""
    last = x.permute(0, 2, 3, 1).contiguous()
    taps = [w.t().contiguous() for w in weight[..., 0].unbind(2)]
    joined = torch.cat(taps)
    in_2d = weight.contiguous(memory_format=torch.channels_last)
    in_3d = weight[..., None].contiguous(memory_format=torch.channels_last_3d)
    T = x.shape[2] - 2

    def summed() -> Tensor:
        y = last[:, :T] @ taps[0]
        for i in (1, 2):
            y += last[:, i : T + i] @ taps[i]
        return y.permute(0, 3, 1, 2)

    def as_channels() -> Tensor:
        y = torch.cat([last[:, i : T + i] for i in range(3)], -1) @ joined
        return y.permute(0, 3, 1, 2)

    return {
        "2-D over (T, H·W)": lambda: F.conv2d(last.permute(0, 3, 1, 2), in_2d),
        "3-D": lambda: F.conv3d(last.permute(0, 3, 1, 2)[..., None], in_3d)[..., 0],
        "three matrix products": summed,
        "frames as channels of one matrix product": as_channels,
    }
