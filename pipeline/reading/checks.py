"""Checks of arguments and states that the readers share."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np

from pipeline.errors import ConfigError


def require_whole(**values: object) -> None:
    """Refuse arguments that are neither whole numbers nor None.

    Raises:
        ConfigError: there is one; the text has its name.
    """
    for name, value in values.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
            raise ConfigError(f"{name} = {value!r}: must be a whole number")


def require_free(columns: Sequence[str], own: Sequence[str]) -> None:
    """Refuse columns whose names are those of a batch's own values.

    Raises:
        ConfigError: there is such a column.
    """
    if taken := [name for name in own if name in columns]:
        raise ConfigError(
            f"columns: {taken[0]}: is also the name of a value that each batch has itself; rename"
            " the column: join its table or dataset, also a dataset to itself, with prefix=…"
        )


def require_state(state: object, names: Sequence[str], of: str) -> None:
    """Refuse what is not the state of a reader.

    Args:
        state: the state.
        names: names of its values; `order` is a mapping.
        of: what the reader is, such as `TokenDataset`.

    Raises:
        ConfigError: a value is missing.
    """
    known = state if isinstance(state, Mapping) else {}
    if not set(names) <= known.keys() or not isinstance(known["order"], Mapping):
        raise ConfigError(
            f"state: is not that of a {of}; load what its state_dict or state_after returned, or"
            " start without a state"
        )


def plain(state: Any) -> Any:
    """Return a state with Python's numbers in place of NumPy's, which JSON cannot hold."""
    if isinstance(state, dict):
        return {name: plain(value) for name, value in state.items()}
    if isinstance(state, list):
        return [plain(value) for value in state]
    return state.item() if isinstance(state, np.generic) else state
