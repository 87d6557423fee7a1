"""Moving average of the weights over training, for evaluation: smoother than the last weights."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

_Tensors = tuple[Tensor, ...] | list[Tensor]


def averaged_model(model: nn.Module, decay: float = 0.999) -> AveragedModel:
    """Return a copy of the model whose `update_parameters(model)` updates a moving average.

    Update k = 1, 2, … keeps the fraction min(decay, (1 + k) / (10 + k)) of the average, so that the
    initial weights soon have no influence. `.module` is the averaged model; `state_dict()` includes
    k. Parameters that do not change stay equal bit for bit; buffers are copied.
    """

    @torch.no_grad()
    def blend(averages: _Tensors, currents: _Tensors, k: Tensor | int) -> None:
        keep = min(decay, (1 + int(k)) / (10 + int(k)))
        torch._foreach_lerp_(averages, currents, 1 - keep)

    averaged = AveragedModel(model, multi_avg_fn=blend)
    # At 0, the first update would replace the initial weights instead of averaging with them.
    averaged.n_averaged.fill_(1)
    return averaged
