"""Moving average of the weights over training, for evaluation: smoother than the last weights."""

from copy import deepcopy
from typing import Generic, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)


class MovingAverage(Generic[M]):
    """Average of a model's weights over steps. Frozen parameters stay equal bit for bit.

    `AveragedModel` of torch counts updates on the device, and waits for it in every one.

    Args:
        model: model whose weights the average starts with. Its buffers are copied once.
        decay: fraction of the average that an update keeps. The first updates keep less, so that
            the initial weights soon have no influence.

    Attributes:
        model: copy with the averaged weights, in eval mode.
    """

    def __init__(self, model: M, decay: float = 0.999) -> None:
        self.model = deepcopy(model).requires_grad_(False).eval()
        self._decay = decay

    @torch.no_grad()
    def update(self, model: M, step: int) -> None:
        """Move the average towards the model, keeping min(decay, (2 + step) / (11 + step)) of it.

        Args:
            model: model with the weights of now.
            step: number of earlier updates.
        """
        pairs = zip(self.model.parameters(), model.parameters(), strict=True)
        moving = [(average, now) for average, now in pairs if now.requires_grad]
        if moving:
            averages, current = map(list, zip(*moving, strict=True))
            torch._foreach_lerp_(averages, current, 1 - min(self._decay, (2 + step) / (11 + step)))
