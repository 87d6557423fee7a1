import pytest
import torch
from torch import Tensor

from tests.vidtok.deterministic import synthetic_video
from tests.vidtok.training.recorded import fill_discriminator, losses
from vidtok.training.discriminator import PatchDiscriminator


def mean_std_first4(logits: Tensor) -> list[float]:
    return [logits.mean().item(), logits.std().item(), *logits.flatten()[:4].tolist()]


@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_equals_the_reference(kind: str) -> None:
    recorded = losses()["discriminators"][kind]
    discriminator = PatchDiscriminator(kind)
    fill_discriminator(discriminator, kind)
    shapes = {name: list(tensor.shape) for name, tensor in discriminator.state_dict().items()}
    assert shapes == recorded["state_dict"]
    x = synthetic_video(1, 5, 64, 64, 3)
    if kind == "2d":
        x = x[0].transpose(0, 1)
    with torch.no_grad():
        logits = discriminator(x)
        assert list(logits.shape) == recorded["output_shape"]
        expected = pytest.approx(recorded["train_mode_mean_std_first4"], rel=1e-4, abs=1e-5)
        assert mean_std_first4(logits) == expected
        state = discriminator.state_dict()
        for name, mean in recorded["running_means_after_one_training_pass"].items():
            assert state[name].mean().item() == pytest.approx(mean, rel=1e-4, abs=1e-7)
        expected = pytest.approx(recorded["then_eval_mode_mean_std_first4"], rel=1e-4, abs=1e-5)
        assert mean_std_first4(discriminator.eval()(x)) == expected


@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_drawn_weights_are_as_narrow_as_they_should_be(kind: str) -> None:
    torch.manual_seed(0)
    for name, parameter in PatchDiscriminator(kind).named_parameters():
        if parameter.dim() > 1:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.1), name
        elif name in ("main.3.weight", "main.6.weight", "main.9.weight"):
            assert parameter.mean().item() == pytest.approx(1, abs=0.01), name
            assert parameter.std().item() == pytest.approx(0.02, rel=0.2), name
        elif name in ("main.3.bias", "main.6.bias", "main.9.bias"):
            assert not parameter.any(), name
