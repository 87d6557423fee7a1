import pytest
import torch

from tests.vidtok.deterministic import unit_normal
from tests.vidtok.goldens import unit
from tests.vidtok.training.recorded import losses
from vidtok.training.regularizers import FsqRegularizer, kl_loss


@pytest.mark.parametrize("scale", ["input", "input*0.05"])
@pytest.mark.parametrize("golden", losses()["fsq"], ids=lambda golden: str(golden["levels"]))
def test_fsq_loss_equals_the_reference(golden: dict, scale: str) -> None:
    levels = tuple(golden["levels"])
    z = unit_normal(f"fsq.{'x'.join(map(str, levels))}", (2, len(levels), 3, 4, 5)) * 1.7
    z.view(-1)[:8] = torch.tensor([0, -0.0, 50, -50, 1e-6, -1e-6, 3, -3])
    z = z.movedim(1, -1) * (0.05 if scale == "input*0.05" else 1)
    recorded = golden["losses"][scale]
    regularize = FsqRegularizer(levels)
    for step, expected in recorded["aux_loss_by_n_steps"].items():
        loss, parts = regularize(z, int(step))
        assert loss.item() == pytest.approx(expected, rel=2e-5)
    token, codebook = parts["token_entropy"].item(), parts["codebook_entropy"].item()
    assert token == pytest.approx(recorded["per_sample_entropy"], rel=1e-4)
    assert token - codebook == pytest.approx(
        recorded["per_sample_minus_codebook_entropy"], rel=1e-5
    )
    assert parts["commitment"].item() == pytest.approx(recorded["commitment"], rel=1e-5)


def test_commitment_pulls_the_encoder_and_not_the_code() -> None:
    z = torch.tensor([[3.0]], requires_grad=True)
    loss, _ = FsqRegularizer((8,), first_entropy_weight=0, entropy_weight=0)(z, 0)
    loss.backward()
    torch.testing.assert_close(z.grad, torch.tensor([[0.25 * 2 * (3.0 - 0.75)]]))


def test_the_entropy_weight_falls_and_stays() -> None:
    weights = [FsqRegularizer((8,)).weight_at(step) for step in (0, 1000, 2000, 9000)]
    assert weights == pytest.approx([0.3, 0.2, 0.1, 0.1])


def test_kl_equals_the_reference() -> None:
    mean, logvar = unit("kl", "mode"), unit("kl", "logvar")
    recorded = losses()["kl"]
    assert kl_loss(mean, logvar).item() == pytest.approx(recorded["kl_loss"], rel=1e-6)
    assert [logvar.min().item(), logvar.max().item()] == recorded["logvar_min_max"]


def test_kl_of_a_standard_normal_is_0_and_grows_with_the_clip_not_the_batch() -> None:
    zeros = torch.zeros(2, 3, 4)
    assert kl_loss(zeros, zeros).item() == 0
    one = kl_loss(zeros + 1, zeros).item()
    assert kl_loss(torch.ones(4, 3, 4), torch.zeros(4, 3, 4)).item() == one
    assert kl_loss(torch.ones(2, 6, 4), torch.zeros(2, 6, 4)).item() == 2 * one
