"""Bits per token by clip, for FSQ columns whose tokens follow the scene, and what they follow.

In a clip of t latent frames, each token after the first latent frame has a flag of one bit that
says whether it repeats. Each other token has the bits of its codebook, b. A share r of all tokens
repeats, so a token takes (1 - r)·b + (t - 1)/t bits on average. A clip that takes fewer bits
without flags has none, so a token never takes more than b. No entropy coder is assumed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import log2
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.dataset import Dataset, Manifest
from pipeline.dataset.part_reader import open_parquet, unit_rows
from pipeline.dataset.schema import TokenizerColumn
from pipeline.formatting import labelled
from pipeline.storage.store import Store

_GROUPS: Final = 5

Numbers = NDArray[np.float64]


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

    fixed: float
    """Bits of a token that does not repeat: the logarithm of the codebook's size."""
    bits: float
    """Bits of a token, the mean over all clips."""
    least: float
    """Bits of a token in the clip with the fewest."""
    most: float
    """Bits of a token in the clip with the most."""
    repeats: float
    """Share of tokens that repeat, the mean over all clips."""
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


def scene_bits(store: Store, dataset: Dataset, manifest: Manifest) -> dict[str, SceneBits]:
    """Return the bits of each tokenizer with a column of repeats; reads columns of numbers.

    Raises:
        StoreError: a part is damaged.
    """
    numbers = {column.name for column in dataset.side if column.holds == "number"}
    columns = [c for c in dataset.tokenizers if f"{c.name}_repeats" in numbers]
    if not columns:
        return {}
    measures = [name for name in dataset.identity["clip"].get("measure", ()) if name != "phash"]
    needed = [f"{c.name}_{end}" for c in columns for end in ("repeats", "shape")]
    found: dict[str, list[Numbers]] = {name: [] for name in (*measures, *needed)}
    for part in manifest.parts():
        with open_parquet(store, part.path) as parquet:
            for rows in unit_rows(parquet, part, list(found)):
                for name, values in found.items():
                    listed = rows[name].to_pylist()
                    if name.endswith("_shape"):
                        listed = [t for t, _, _ in listed]
                    values.append(np.array(listed, np.float64))
    if not manifest.parts():
        return {}
    joined = {name: np.concatenate(values) for name, values in found.items()}
    return {c.name: _bits(c, joined, measures) for c in columns}


def _bits(column: TokenizerColumn, values: Mapping[str, Numbers], measures: list[str]) -> SceneBits:
    assert column.codebook_size is not None
    fixed, repeats = log2(column.codebook_size), values[f"{column.name}_repeats"]
    flagged = (1 - repeats) * fixed + 1 - 1 / values[f"{column.name}_shape"]
    bits = np.minimum(flagged, fixed)
    return SceneBits(
        fixed=fixed,
        bits=float(bits.mean()),
        least=float(bits.min()),
        most=float(bits.max()),
        repeats=float(repeats.mean()),
        by={name: list(_groups(values[name], bits)) for name in measures},
    )


def _groups(measure: Numbers, bits: Numbers) -> Iterator[Group]:
    order = np.argsort(measure, kind="stable")
    for chosen in np.array_split(order, _GROUPS):
        if len(chosen):
            most = float(measure[chosen].max())
            yield Group(most=most, clips=len(chosen), bits=float(bits[chosen].mean()))
