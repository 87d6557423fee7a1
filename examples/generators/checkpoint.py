"""Checkpoint of a run: `checkpoint.pt`, which is replaced atomically.

It holds no random state, because all random numbers follow from seed, step and rank.
"""

import io
from typing import Any

import torch

from pipeline.errors import ConfigError, DamagedFile, one_line
from pipeline.storage import Store

_PATH = "checkpoint.pt"


def save(store: Store, settings: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a checkpoint over the one before.

    Args:
        store: store to write to.
        settings: settings that a resumed run must share.
        state: state of the run.
    """
    store.write(_PATH, packed(state | {"settings": settings}))


def load(store: Store, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the saved state, on the CPU; None without a checkpoint.

    Raises:
        ConfigError: a run with other settings saved it.
        DamagedFile: it is damaged.
    """
    try:
        data = store.read(_PATH)
    except FileNotFoundError:
        return None
    try:
        state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged content can raise anything
        raise DamagedFile(
            f"{store.locate(_PATH)}: not a complete checkpoint ({one_line(error, max_chars=90)});"
            " delete it, and run the same command again: it starts from the first step"
        ) from error
    for name, value in settings.items():
        if (was := state["settings"].get(name)) != value:
            raise ConfigError(
                f"{store.locate(_PATH)}: belongs to a run with {name} = {was}, this one has"
                f" {value}; continue with the same value, or give another --out"
            )
    return state


def packed(state: dict[str, Any]) -> bytes:
    """Return the bytes of a file that `torch.load` reads."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()
