"""Rules for the settings that name a model: it must exist, and must take the clips.

`model` is a plain name of VidTok, or `PACKAGE:NAME`, where PACKAGE is `diffusers` or the name of
an entry point of the group `vidtok_pipeline.tokenizers`. Heavy packages are imported inside.
"""

import difflib
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Final

from pipeline.config.job import HUB, RANDOM, Tile, TokenizerSpec
from pipeline.config.loading import Fault
from pipeline.tokenizers.facts import Facts, vidtok_facts
from vidtok.presets import PRESETS, bundled_weights

GROUP: Final = "vidtok_pipeline.tokenizers"
"""Group of entry points of other packages. Each is called with the text behind the colon of
`model` and with `weights`, and returns a `VideoTokenizer` in float32 on the CPU."""


def is_foreign(spec: TokenizerSpec) -> bool:
    """Return whether another package computes the tokens, so that its results are probed."""
    return ":" in spec.model


def absolute_path(weights: str | None) -> str | None:
    """Return a path of weights as an absolute path, which every process opens alike.

    `hub`, `random` and ids of the Hub stay as they are.
    """
    if weights in (None, HUB, RANDOM) or not Path(weights).exists():
        return weights
    return str(Path(weights).resolve())


def is_untrained(spec: TokenizerSpec) -> bool:
    """Return whether a tokenizer runs on a seeded initialisation instead of weights."""
    return spec.weights == RANDOM


def registered() -> dict[str, EntryPoint]:
    """Return the entry points of other packages by name."""
    return {point.name: point for point in entry_points(group=GROUP)}


def tokenizer_faults(model: str, weights: str | None, where: str = "") -> Iterator[Fault]:
    """Yield the errors in a model's name and in its weights.

    Args:
        model: `model` of a tokenizer.
        weights: `weights` of a tokenizer.
        where: text before the fields `model` and `weights`, such as `tokenizers.0.`.
    """
    package, colon, name = model.partition(":")
    if not colon:
        yield from vidtok_faults(model, weights, where)
    elif package == "diffusers":
        from pipeline.tokenizers.diffusers_adapter import diffusers_faults

        yield from diffusers_faults(name, weights, where)
    elif package not in registered():
        known = ", ".join(sorted(["diffusers", *registered()]))
        rule = f"no installed package registers tokenizers as {package}, only {known}"
        yield Fault(f"{where}model", model, rule, f"see the entry points {GROUP}")


def vidtok_faults(model: str, weights: str | None, where: str = "") -> Iterator[Fault]:
    """Yield the errors in the name of a VidTok model and in its weights.

    Args:
        model: a name, which should be one of `vidtok.list_models()`.
        weights: path of a checkpoint, `hub`, `random`, or None for the weights in the package.
        where: text before the fields `model` and `weights`, such as `tokenizers.0.`.
    """
    if model not in PRESETS:
        close = difflib.get_close_matches(model, PRESETS, n=2, cutoff=0.3)
        known = "`python -m vidtok list` prints the names"
        fix = f"did you mean {' or '.join(close)}?" if close else known
        yield Fault(f"{where}model", model, "no model has this name", fix)
    elif weights is None:
        if bundled_weights(model) is None:
            bundled = ", ".join(name for name in PRESETS if bundled_weights(name))
            yield Fault(
                f"{where}weights",
                rule=f"the package has no weights of {model}, only of {bundled}",
                fix="set hub, which downloads the released checkpoint; or the path of a file, as"
                f" `python -m vidtok convert {model} FILE.safetensors` writes it; or random, for"
                " tokens without a meaning",
            )
    elif weights in (HUB, RANDOM):
        pass
    elif "://" in weights:
        rule = "must be a path that every node can read"
        yield Fault(f"{where}weights", weights, rule, "copy the file to such a path first")
    elif not Path(weights).exists():
        fix = "correct the path, or set hub or random"
        yield Fault(f"{where}weights", weights, "no such file", fix)


def known_facts(model: str) -> Facts | None:
    """Return the facts of a model that its name tells; None where its weights must be opened."""
    return vidtok_facts(PRESETS[model]) if model in PRESETS else None


def tile_faults(tile: Tile, model: str, facts: Facts, field: str = "tile") -> Iterator[Fault]:
    """Yield the errors in the size of tiles, as found by a model. `auto` suits every model."""
    if not isinstance(tile, int):
        return
    s = facts.spatial_factor
    if not facts.tileable:
        rule = f"{model} has no exact tiles; models of VidTok have"
        yield Fault(field, tile, rule, "set auto or null")
    elif tile % s:
        yield Fault(field, tile, f"{model} takes a multiple of {s} pixels", use_near(tile, s))


def clip_faults(
    facts: Facts,
    model: str,
    frames: int,
    height: int,
    width: int,
    where: str = "clip",
    *,
    scale: int = 1,
    every: int = 1,
) -> Iterator[Fault]:
    """Yield the errors in the shape of a clip, as found by the model.

    Args:
        facts: facts of the model.
        model: its name.
        frames: number of frames.
        height: in pixels.
        width: in pixels.
        where: section of the configuration that has the fields.
        scale: divisor of height and width that gives the size of the model's frames.
        every: step through the frames that gives the model's frames.
    """
    left = -(-frames // every)
    if left not in facts.lengths:
        near = " or ".join(map(str, facts.lengths.near(frames, every)))
        of = f", and every = {every} leaves {left}" if every > 1 else ""
        rule = f"{model} takes {facts.lengths}{of}"
        yield Fault(f"{where}.frames", frames, rule, f"use {near}" if near else "")
    s = facts.spatial_factor * scale
    for side, n in (("height", height), ("width", width)):
        if n < s or n % s:
            of = f" with scale = 1/{scale}" if scale > 1 else ""
            rule = f"{model}{of} takes a multiple of {s} pixels"
            yield Fault(f"{where}.{side}", n, rule, use_near(n, s))


def use_near(value: int, step: int) -> str:
    """Return a fix that names the multiples of a step that are next to a value."""
    near = sorted({max(step, value // step * step), max(step, -(-value // step) * step)})
    return f"use {' or '.join(map(str, near))}"
