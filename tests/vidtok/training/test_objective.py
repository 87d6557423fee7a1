import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.vidtok.deterministic import make_tensor, synthetic_video
from tests.vidtok.training.recorded import fill_discriminator, filled_lpips, losses
from vidtok.training.objective import Objective, ObjectiveConfig

CASES = losses()["objective"]["cases"]
REGULARIZER = torch.tensor(0.7 + 1e-6 * 1234)


def filled(discriminator: str, perceptual_weight: float, start: int) -> Objective:
    config = ObjectiveConfig(
        discriminator=discriminator,
        perceptual_weight=perceptual_weight,
        discriminator_start=start,
    )
    objective = Objective(config, filled_lpips() if perceptual_weight > 0 else None)
    fill_discriminator(objective.discriminator, discriminator)
    torch.nn.init.constant_(objective.logvar, 0.3)
    return objective


def clips() -> tuple[Tensor, Tensor, Tensor]:
    last_weight = 0.3 * make_tensor("last_layer", (3, 3, 1, 1, 1))
    last_weight.requires_grad_()
    x_hat = F.conv3d(synthetic_video(2, 5, 64, 64, 4), last_weight)
    return synthetic_video(2, 5, 64, 64, 3), x_hat, last_weight


@pytest.mark.parametrize("perceptual_weight", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["2d", "3d"])
def test_equals_the_reference(kind: str, perceptual_weight: float) -> None:
    before, after = (
        case
        for case in CASES
        if case["disc_type"] == kind and case["perceptual_weight"] == perceptual_weight
    )
    x, x_hat, last_weight = clips()

    objective = filled(kind, perceptual_weight, start=1)
    loss, _ = objective.autoencoder_loss(x, x_hat, REGULARIZER, last_weight, step=0)
    assert loss.item() == pytest.approx(before["autoencoder_loss"], rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, last_weight, retain_graph=True)
    torch.testing.assert_close(
        gradient.flatten(), torch.tensor(before["last_layer_gradient"]), rtol=1e-4, atol=1e-2
    )
    assert objective.discriminator_loss(x, x_hat, step=0)[0].item() == 0

    # The reference computes the discriminator before its start, too, and multiplies by 0; the
    # first of two steps from the start on leaves LeCam's means where that leaves them.
    _, first = objective.discriminator_loss(x, x_hat, step=1)
    assert first["lecam"].item() == pytest.approx(before["log"]["train/lecam_loss"], rel=1e-5)

    loss, log = objective.autoencoder_loss(x, x_hat, REGULARIZER, last_weight, step=2)
    assert loss.item() == pytest.approx(after["autoencoder_loss"], rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, last_weight, retain_graph=True)
    torch.testing.assert_close(
        gradient.flatten(), torch.tensor(after["last_layer_gradient"]), rtol=1e-4, atol=1e-2
    )
    discriminator_loss, discriminator_log = objective.discriminator_loss(x, x_hat, step=2)
    assert discriminator_loss.item() == pytest.approx(after["discriminator_loss"], rel=1e-5)

    log |= discriminator_log
    log["rec_loss"] = log["pixel"] + perceptual_weight * log.get("perceptual", torch.zeros(()))
    names = {
        "total_loss": "loss",
        "logvar": "logvar",
        "nll_loss": "nll",
        "rec_loss": "rec_loss",
        "d_weight": "adaptive_weight",
        "g_loss": "adversarial",
        "disc_loss": "discriminator_loss",
        "logits_real": "real_logit",
        "logits_fake": "fake_logit",
        "non_saturated_d_loss": "hinge",
        "lecam_loss": "lecam",
    } | ({"p_loss": "perceptual"} if perceptual_weight else {})
    for name, ours in names.items():
        expected = after["log"][f"train/{name}"]
        assert log[ours].item() == pytest.approx(expected, rel=2e-5), name


def test_state_has_the_names_of_the_release_and_lecams_means() -> None:
    state = Objective(ObjectiveConfig(), filled_lpips()).state_dict()
    assert set(state) == {*losses()["objective"]["keys"], "lecam.real", "lecam.fake"}


def test_a_restored_objective_goes_on_as_if_never_stopped() -> None:
    x, x_hat, _ = clips()
    objective = filled("2d", 0.0, start=0)
    objective.discriminator_loss(x, x_hat, step=0)
    restored = filled("2d", 0.0, start=0)
    restored.load_state_dict(objective.state_dict())
    losses = [o.discriminator_loss(x, x_hat, step=1)[0] for o in (objective, restored)]
    assert torch.equal(*losses)
    assert restored.lecam.real != 0


def test_each_loss_reaches_its_own_weights_alone() -> None:
    x, x_hat, last_weight = clips()
    objective = filled("2d", 0.0, start=0)
    objective.autoencoder_loss(x, x_hat, REGULARIZER, last_weight, 0)[0].backward()
    assert last_weight.grad is not None
    assert objective.logvar.grad is not None
    assert all(p.grad is None for p in objective.discriminator.parameters())
    last_weight.grad = objective.logvar.grad = None
    objective.discriminator_loss(x, x_hat, 0)[0].backward()
    assert last_weight.grad is None
    assert objective.logvar.grad is None
    assert all(p.grad is not None for p in objective.discriminator.parameters())


def test_before_its_start_the_discriminator_neither_runs_nor_learns() -> None:
    x, x_hat, last_weight = clips()
    objective = filled("2d", 0.0, start=5)
    state = {name: value.clone() for name, value in objective.state_dict().items()}
    assert not objective.adversarial_at(4)
    assert objective.adversarial_at(5)
    objective.autoencoder_loss(x, x_hat, REGULARIZER, last_weight, 4)
    loss, log = objective.discriminator_loss(x, x_hat, 4)
    loss.backward()
    assert log == {}
    assert all(p.grad is None for p in objective.discriminator.parameters())
    assert all(torch.equal(value, state[name]) for name, value in objective.state_dict().items())


def test_without_a_discriminator_there_is_none_at_any_step() -> None:
    x, x_hat, last_weight = clips()
    config = ObjectiveConfig(discriminator=None, perceptual_weight=0, discriminator_start=0)
    objective = Objective(config, None)
    assert set(objective.state_dict()) == {"logvar"}
    loss, log = objective.autoencoder_loss(x, x_hat, torch.tensor(0.5), last_weight, 10)
    assert "adversarial" not in log
    expected = (x - x_hat).abs().sum() / 10 + 0.5
    torch.testing.assert_close(loss, expected)


def test_validation_leaves_no_trace_and_needs_no_gradient() -> None:
    x, x_hat, _ = clips()
    objective = filled("2d", 0.0, start=0).eval()
    state = {name: value.clone() for name, value in objective.state_dict().items()}
    with torch.no_grad():
        objective.autoencoder_loss(x, x_hat, REGULARIZER, None, 0)
        objective.discriminator_loss(x, x_hat, 0)
    assert all(torch.equal(value, state[name]) for name, value in objective.state_dict().items())


def test_squared_differences() -> None:
    x, x_hat, last_weight = clips()
    config = ObjectiveConfig(discriminator=None, perceptual_weight=0, pixel="l2")
    loss, _ = Objective(config, None).autoencoder_loss(x, x_hat, torch.zeros(()), last_weight, 0)
    torch.testing.assert_close(loss, (x - x_hat).square().sum() / 10)


def test_a_decibel_counts_the_same_in_every_frame() -> None:
    x, _, last_weight = clips()
    noise = make_tensor("noise", x.shape)
    noise = noise / noise.square().mean((1, 3, 4), keepdim=True).sqrt()
    # Frames at 28 to 40 dB; the scale of an even gradient is 1/error.
    errors = torch.logspace(-1.2, -2.4, 10).mul(0.1).view(2, 1, 5, 1, 1)
    scale = torch.ones(10, requires_grad=True)
    x_hat = x + noise * (errors * scale.view_as(errors)).sqrt()
    config = ObjectiveConfig(discriminator=None, perceptual_weight=0, pixel="log_l2")
    loss, log = Objective(config, None).autoencoder_loss(x, x_hat, torch.zeros(()), last_weight, 0)
    flat = errors.flatten()
    torch.testing.assert_close(log["pixel"], 0.01 * torch.log1p(flat / 1e-4).mean())
    loss.backward()
    assert scale.grad is not None
    relative = scale.grad / scale.grad.max()
    torch.testing.assert_close(relative, (flat / (flat + 1e-4)) / (flat[0] / (flat[0] + 1e-4)))
    assert relative.min() > 0.75


def test_half_precision_is_computed_with_in_float32_under_autocast_too() -> None:
    x, x_hat, last_weight = clips()
    x_hat = x_hat.bfloat16()
    plain = filled("2d", 0.0, 0).autoencoder_loss(
        x, x_hat.float(), REGULARIZER, last_weight, step=0
    )
    with torch.autocast("cpu", torch.bfloat16):
        mixed = filled("2d", 0.0, 0).autoencoder_loss(x, x_hat, REGULARIZER, last_weight, step=0)
    assert mixed[0].dtype == torch.float32
    assert torch.equal(mixed[0], plain[0])


def test_a_perceptual_weight_without_a_distance_is_refused() -> None:
    with pytest.raises(ValueError, match=r"perceptual_weight = 1\.0 without"):
        Objective(ObjectiveConfig(), None)
