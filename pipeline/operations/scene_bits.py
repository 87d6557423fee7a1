"""Bits per token by clip, for FSQ columns whose tokens follow the scene, and what they follow.

In a clip of t latent frames, each token after the first latent frame has a flag of one bit that
says whether it repeats. Each other token has the bits of its codebook, b; of a clip that needs
fewer channels, those of its prefixes. A share r of all tokens repeats, so a token takes
(1 - r)·b + (t - 1)/t bits on average. A clip that takes fewer bits without flags has none, so a
token never takes more than b. No entropy coder is assumed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from math import log2, prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset import Dataset, Manifest
from pipeline.dataset.part_reader import part_rows
from pipeline.dataset.side_columns import token_columns
from pipeline.formatting import labelled
from pipeline.storage.store import Store

_GROUPS: Final = 5

Numbers = NDArray[Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Clips with similar values of a measure."""

    most: float
    """Largest value of the measure."""
    clips: int
    """Number of clips."""
    bits: float
    """Bits of a token, the mean over the clips."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneBits:
    """Bits of a token of one tokenizer."""

    clips: int
    """Number of clips that were read."""
    fixed: float
    """Bits of a token that does not repeat: the logarithm of the codebook's size."""
    bits: float
    """Bits of a token, the mean over all clips."""
    least: float
    """Bits of a token in the clip with the fewest."""
    most: float
    """Bits of a token in the clip with the most."""
    repeats: float
    """Share of tokens that repeat, the mean over all clips; 0 without `hold`."""
    by: dict[str, list[Group]]
    """Fifths of the clips by measure, from the smallest value on."""

    def lines(self, name: str) -> Iterator[str]:
        """Yield the lines to print."""
        text = f"{name}: {self.bits:.2f} of {self.fixed:.2f} bits a token"
        text += f" ({self.least:.2f} to {self.most:.2f} by clip), {self.repeats:.1%} repeat"
        yield labelled("bits", text)
        for measure, groups in self.by.items():
            fifths = " · ".join(f"≤ {group.most:.3g}: {group.bits:.2f}" for group in groups)
            yield labelled("", f"by {measure}: {fifths}")


def scene_bits(
    store: Store, dataset: Dataset, manifest: Manifest, *, most_parts: int | None = None
) -> dict[str, SceneBits]:
    """Return the bits of each tokenizer that follows the scene; reads columns of numbers.

    Args:
        store: the dataset's root.
        dataset: its metadata.
        manifest: what counts.
        most_parts: maximum number of parts that are read, evenly spread; None for all.

    Raises:
        StoreError: a part is damaged.
    """
    made = dataset.identity.get("tokenizers", {})
    numbers = [column.name for column in token_columns(made)]
    stored = dataset.identity.get("clip", {}).get("measure", ())
    measures = [name for name in stored if name != "phash"]
    shapes = [f"{name}_shape" for name in made if token_columns({name: made[name]})]
    found: dict[str, list[Numbers]] = {name: [] for name in (*measures, *numbers, *shapes)}
    parts = manifest.parts() if numbers else []
    num = len(parts) if most_parts is None else min(most_parts, len(parts))
    for part in (parts[n * len(parts) // num] for n in range(num)):
        for rows in part_rows(store, part, list(found)):
            for name, values in found.items():
                listed = rows[name].to_pylist()
                values.append(np.array([n[0] for n in listed] if name in shapes else listed))
    joined = {name: np.concatenate(each) for name, each in found.items() if each}
    return {
        name: _bits(made[name], name, joined, {m: joined[m] for m in measures})
        for name in (shape.removesuffix("_shape") for shape in shapes if shape in joined)
    }


def _bits(
    settings: Mapping[str, Any],
    name: str,
    values: Mapping[str, Numbers],
    measures: Mapping[str, Numbers],
) -> SceneBits:
    levels = settings["facts"]["levels"]
    fixed = log2(prod(levels))
    bits = np.full(len(values[f"{name}_shape"]), fixed)
    if channels := settings.get("channels"):
        each = [log2(levels[channel]) for channel in channels["order"]]
        bits = np.array([0, *accumulate(each)])[values[f"{name}_channels"].astype(np.intp)]
    repeats = values.get(f"{name}_repeats", np.zeros(len(bits)))
    if settings.get("hold"):
        flagged = (1 - repeats) * bits + 1 - 1 / values[f"{name}_shape"]
        bits = np.minimum(flagged, bits)
    return SceneBits(
        clips=len(bits),
        fixed=fixed,
        bits=float(bits.mean()),
        least=float(bits.min()),
        most=float(bits.max()),
        repeats=float(repeats.mean()),
        by={measure: list(_groups(found, bits)) for measure, found in measures.items()},
    )


def _groups(measure: Numbers, bits: Numbers) -> Iterator[Group]:
    order = np.argsort(measure, kind="stable")
    for chosen in np.array_split(order, _GROUPS):
        if len(chosen):
            most = float(measure[chosen].max())
            yield Group(most=most, clips=len(chosen), bits=float(bits[chosen].mean()))
