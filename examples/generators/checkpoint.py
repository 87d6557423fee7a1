"""What a run that was stopped goes on from: `checkpoint.pt`, whole or not there.

Nothing random is in it, since all that is drawn follows from seed, step and rank.
"""

import io
from typing import Any

import torch

from pipeline.errors import ConfigError
from pipeline.storage.store import Store

_PATH = "checkpoint.pt"


def save(store: Store, settings: dict[str, Any], state: dict[str, Any]) -> None:
    """Write a checkpoint over the one before.

    Args:
        store: to write to.
        settings: that a run which goes on from it must share.
        state: of that run.
    """
    store.write(_PATH, packed(state | {"settings": settings}))


def load(store: Store, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Return the state that was saved last, on the CPU; None if there is none.

    Raises:
        ConfigError: it was saved by a run of other settings.
    """
    try:
        data = store.read(_PATH)
    except FileNotFoundError:
        return None
    state: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    for name, value in settings.items():
        if (was := state["settings"].get(name)) != value:
            raise ConfigError(
                f"{store.locate(_PATH)}: is of a run with {name} = {was}, this one has {value}; go"
                " on with the same, or give another --out"
            )
    return state


def packed(state: dict[str, Any]) -> bytes:
    """Return the bytes of a file that `torch.load` reads."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()
