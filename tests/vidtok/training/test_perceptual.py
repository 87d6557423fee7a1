import pytest
import torch
import torch.nn.functional as F

from tests.vidtok.deterministic import synthetic_video, unit_normal
from vidtok.training.perceptual import structural_distance

PICTURES = synthetic_video(1, 3, 64, 48, 3)[0].transpose(0, 1)


def test_equal_pictures_are_at_distance_0() -> None:
    torch.testing.assert_close(structural_distance(PICTURES, PICTURES), torch.zeros(3))


def test_pictures_are_compared_one_by_one() -> None:
    noisy = PICTURES.clone()
    noisy[1] += 0.1 * unit_normal("noise", noisy[1].shape)
    distance = structural_distance(PICTURES, noisy)
    assert distance[1] > 0.1
    torch.testing.assert_close(distance[[0, 2]], torch.zeros(2))


def test_grows_with_noise_and_with_blur() -> None:
    texture = unit_normal("texture", (3, 3, 64, 48)) * 0.3
    noise = unit_normal("noise", texture.shape)
    noisy = [structural_distance(texture, texture + s * noise).mean() for s in (0.05, 0.1, 0.2)]
    assert noisy == sorted(noisy)
    blurred = [
        structural_distance(texture, F.avg_pool2d(texture, size, 1, size // 2)).mean()
        for size in (3, 5, 9)
    ]
    assert blurred == sorted(blurred)


def test_blur_costs_more_than_a_shift_of_all_values_by_as_much() -> None:
    texture = unit_normal("texture", (1, 3, 64, 48)) * 0.3
    blurred = F.avg_pool2d(texture, 3, 1, 1)
    shifted = texture + (texture - blurred).abs().mean()
    assert structural_distance(texture, blurred) > 2 * structural_distance(texture, shifted)


def test_its_gradient_leads_back_to_the_picture() -> None:
    y = (PICTURES + 0.2 * unit_normal("noise", PICTURES.shape)).requires_grad_()
    optimizer = torch.optim.Adam([y], lr=0.02)
    first = structural_distance(PICTURES, y).mean().item()
    for _ in range(30):
        optimizer.zero_grad()
        structural_distance(PICTURES, y).mean().backward()
        optimizer.step()
    assert structural_distance(PICTURES, y).mean().item() < first / 2


def test_flat_pictures_have_finite_gradients() -> None:
    y = torch.zeros(1, 3, 32, 32, requires_grad=True)
    structural_distance(torch.zeros(1, 3, 32, 32), y).sum().backward()
    assert y.grad.isfinite().all()


def test_pictures_too_small_for_a_window_are_refused() -> None:
    structural_distance(torch.zeros(1, 3, 28, 28), torch.zeros(1, 3, 28, 28))
    with pytest.raises(ValueError, match="27×64: both sides must be at least 28"):
        structural_distance(torch.zeros(1, 3, 27, 64), torch.zeros(1, 3, 27, 64))
