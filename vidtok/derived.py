"""Kernels that layers compute from their parameters, kept while the parameters stay the same."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

T = TypeVar("T")


class Derived:
    """Keeps what a layer computes from its parameters, for the next call without gradients.

    It is computed again after a change that torch counts (`load_state_dict`, an optimizer's step)
    and for other memory (`to`). A call with gradients drops it, because fused optimizers change
    parameters without counting. A state dict, a copy and a pickled layer do not contain it.
    """

    def __init__(self) -> None:
        self._kept: tuple[list[object], object] | None = None

    def __call__(self, compute: Callable[..., T], *parameters: Tensor) -> T:
        """Return `compute(*parameters)`; of one object, `compute` must always be the same."""
        if torch.compiler.is_compiling():
            return compute(*parameters)
        if torch.is_grad_enabled() or any(p.is_inference() for p in parameters):
            self._kept = None
            return compute(*parameters)
        # A weak reference keeps the identity of a storage from being used again, not its memory.
        now = [
            (StorageWeakRef(p.untyped_storage()), p.dtype, p._version)  # type: ignore[no-untyped-call]
            for p in parameters
        ]
        if self._kept is None or self._kept[0] != now:
            self._kept = now, compute(*parameters)  # type: ignore[assignment]
        return self._kept[1]  # type: ignore[return-value, index]

    def __reduce__(self) -> tuple[type["Derived"], tuple[()]]:
        return Derived, ()
