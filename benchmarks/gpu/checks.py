"""Whether a device computes what a CPU computes."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

import vidtok
from benchmarks.gpu.report import Report
from benchmarks.gpu.ways import (
    OURS,
    PLAIN,
    Setup,
    arithmetic,
    clips,
    has_fused_norms,
    model_on_cpu,
    open_way,
)
from tests.vidtok.deterministic import fill_weights, synthetic_video
from tests.vidtok.goldens import array, models
from vidtok.presets import named_config

SECTION = "correctness"
NEAR = 1e-3
"""Largest difference to a recorded result in float32. The tests on a CPU allow 1e-4."""
SAME = 1e-3
"""Fraction of code indices that may differ in float32: those near a rounding boundary."""


def check(report: Report, setup: Setup, names: list[str]) -> None:
    """Add one row per check; a row's result is `ok`, `failed`, or a number to look at."""
    checks: list[tuple[str, Callable[[], str]]] = [
        ("recorded results of the reference, float32", lambda: _goldens(setup)),
        *(
            (f"{name}, float32: indices as on the CPU", lambda n=name: _as_on_cpu(setup, n))
            for name in names
        ),
        *(
            (
                f"{names[0]}, {half}: indices that differ from float32",
                lambda h=half: _half(setup, names[0], h),
            )
            for half in ("fp16", "bf16", "tf32")
        ),
        *(
            (
                f"{names[0]}, {precision}: fused norms as torch's",
                lambda p=precision: _fused(setup, names[0], p),
            )
            for precision in ("float32", "fp16", "bf16")
            if has_fused_norms(setup)
        ),
        (
            f"{names[0]}, fp16, batch 32: copies of four clips are equal",
            lambda: _pieces(setup, names[0]),
        ),
    ]
    for name, run in checks:
        if report.over:
            report.add("not run", what=f"check: {name}")
            continue
        try:
            with arithmetic("float32"):
                detail = run()
            result = "ok"
        except torch.OutOfMemoryError:
            result, detail = "out of memory", ""
        except Exception as error:
            result, detail = (
                "failed",
                f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
            )
        report.add(SECTION, check=name, result=result, detail=detail)


def _require(condition: bool, text: str) -> str:
    if not condition:
        raise ValueError(text)
    return text


def _goldens(setup: Setup) -> str:
    """Compare whole clips of all recorded networks; in a quick run, of one narrow network."""
    worst, count, differ, tokens = 0.0, 0, 0, 0
    for golden in models():
        if golden["tiling"] or (setup.quick and (count or "ch" not in golden)):
            continue
        config = named_config(golden["config"])
        model = vidtok.build(replace(config, ch=golden.get("ch", config.ch)), seed=0)
        fill_weights(model.state_dict(), golden["weight_seed"])
        model.to(setup.device)
        video = synthetic_video(**golden["video"]).to(setup.device)
        latent = array(golden["id"], "latent")
        if latent is None:
            indices = array(golden["id"], "indices")
            assert indices is not None
            found = model.encode(video, as_reference=True).indices
            assert found is not None
            differ += int((found.cpu() != indices).sum())
            tokens += indices.numel()
            decoded = model.decode_indices(indices.to(setup.device), as_reference=True)
        else:
            found = model.encode(video, as_reference=True).latent.cpu()
            worst = max(worst, (found - latent).abs().max().item())
            decoded = model.decode(latent.to(setup.device), as_reference=True)
        pixels = array(golden["id"], "reconstruction_f32_every4")
        worst = max(worst, (decoded.cpu()[:, :, ::4, ::4, ::4] - pixels).abs().max().item())
        count += 1
    text = f"{count} networks: largest difference {worst:.2g}; {differ} of {tokens} indices differ"
    return _require(worst < NEAR and differ <= SAME * tokens, text)


def _as_on_cpu(setup: Setup, name: str) -> str:
    video = clips(setup, 1)
    expected = model_on_cpu(name, setup.quick).encode(video.cpu()).indices
    found = open_way(OURS, name, "float32", setup).encode(video).cpu()
    assert expected is not None
    differ = int((found != expected).sum())
    text = f"{differ} of {expected.numel()} differ"
    return _require(differ <= SAME * expected.numel(), text)


def _half(setup: Setup, name: str, precision: str) -> str:
    video = clips(setup, 1)
    expected = open_way(OURS, name, "float32", setup).encode(video)
    with arithmetic(precision):
        found = open_way(OURS, name, precision, setup).encode(video)
    share = (found != expected).float().mean().item()
    return _require(share < 0.5, f"{share:.2%}")


def _fused(setup: Setup, name: str, precision: str) -> str:
    """Compare our kernels of norms with torch's operations, which round more often."""
    video = clips(setup, 1)
    fused, plain = (open_way(way, name, precision, setup) for way in (OURS, PLAIN))
    share = (fused.encode(video) != plain.encode(video)).float().mean().item()
    shape = model_on_cpu(name, setup.quick).config.latent_shape(
        setup.frames, setup.size, setup.size
    )
    z = torch.linspace(-1, 1, torch.Size(shape).numel(), device=setup.device).view(1, *shape)
    apart = (fused.decode(z).float() - plain.decode(z).float()).abs().max().item()
    text = f"{share:.2%} of indices differ, pixels by up to {apart:.2g}"
    limit = {"float32": (SAME, NEAR), "fp16": (0.05, 0.1), "bf16": (0.5, 0.5)}[precision]
    return _require(share <= limit[0] and apart <= limit[1], text)


def _pieces(setup: Setup, name: str) -> str:
    """A batch larger than a call of a kernel allows holds four clips several times."""
    batch = 8 if setup.quick else 32
    way = open_way(OURS, name, "fp16", setup)
    video = clips(setup, batch)
    latent = model_on_cpu(name, setup.quick).config.latent_shape(
        setup.frames, setup.size, setup.size
    )
    z = torch.linspace(-1, 1, 4 * torch.Size(latent).numel()).view(4, *latent)
    several = z.repeat(batch // 4, 1, 1, 1, 1).to(setup.device)
    share = _unequal(way.encode(video), lambda a, b: a != b)
    far = _unequal(way.decode(several), lambda a, b: (a.float() - b.float()).abs() > 0.05)
    text = f"{share:.2%} of indices, {far:.2%} of pixels differ"
    return _require(share < 0.05 and far < 0.01, text)


def _unequal(values: Tensor, differ: Callable[[Tensor, Tensor], Tensor]) -> float:
    """Return the fraction of values that differ from those of the same clip in the first four."""
    groups = values.split(4)
    return max(differ(group, groups[0]).float().mean().item() for group in groups)
