"""A digest that tells weights apart, without torch."""

import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


def weights_digest(tensors: Mapping[str, "Tensor"]) -> str:
    """Return the digest of a model's weights that datasets have in their identity."""
    return tensors_digest({name: t.detach().float().cpu().numpy() for name, t in tensors.items()})


def tensors_digest(tensors: Mapping[str, NDArray[Any]]) -> str:
    """Return 32 hex digits of tensors and their names.

    It is of float32 values, so weights in half precision have one digest however they were loaded.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.shape}\n".encode())
        digest.update(tensor.astype(np.float32).tobytes())
    return digest.hexdigest()[:32]
