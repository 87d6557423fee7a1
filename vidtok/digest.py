"""A digest that tells weights apart, without torch."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def tensors_digest(tensors: Mapping[str, NDArray[Any]]) -> str:
    """Return 32 hex digits of tensors and their names.

    It is of float32 values, so weights in half precision have one digest however they were loaded.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.shape}\n".encode())
        digest.update(tensor.astype(np.float32).tobytes())
    return digest.hexdigest()[:32]
