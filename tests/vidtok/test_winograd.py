import pytest
import torch
import torch.nn.functional as F

from vidtok.winograd import Conv3x3, TimeConv, suits, suits_time


@pytest.mark.parametrize("size", [(1, 32, 32), (1, 64, 64), (3, 18, 33), (2, 128, 20)], ids=str)
@pytest.mark.parametrize("channels", [(64, 64), (64, 128), (128, 64)], ids=str)
def test_differs_from_an_exact_convolution_by_rounding_alone(
    size: tuple[int, int, int], channels: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(0)
    c_in, c_out = channels
    x = torch.randn(*size, c_in, generator=generator)
    weight = torch.randn(c_out, c_in, 3, 3, generator=generator) / (3 * c_in**0.5)
    bias = torch.randn(c_out, generator=generator)
    x_NCHW = x.permute(0, 3, 1, 2)
    exact = F.conv2d(x_NCHW.double(), weight.double(), bias.double(), padding=1)
    exact = exact.permute(0, 2, 3, 1)
    conv = Conv3x3(weight, bias)
    conv.interior(1, *size).copy_(x)
    error = conv()[0] - exact
    assert error.abs().max() < 3e-5
    assert error.std() < 3e-6


def test_buffers_may_be_used_again_for_another_number_of_pictures() -> None:
    conv = Conv3x3(torch.randn(64, 64, 3, 3), torch.zeros(64))
    weight = conv.kernel.clone()
    many, few = torch.randn(4, 16, 16, 64), torch.randn(2, 16, 16, 64)
    conv.interior(1, 4, 16, 16).copy_(many)
    first = conv().clone()
    conv.interior(1, 2, 16, 16).copy_(few)
    conv()
    conv.interior(1, 4, 16, 16).copy_(many)
    assert torch.equal(conv(), first)
    assert torch.equal(conv.kernel, weight)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("taps", "stride"), [(2, 1), (3, 1), (3, 2)])
def test_convolves_along_time_as_well(batch: int, taps: int, stride: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 7, 20, 24, 64, generator=generator)
    weight = torch.randn(64, 64, taps, 3, 3, generator=generator) / 24
    bias = torch.randn(64, generator=generator)
    exact = F.conv3d(
        x.permute(0, 4, 1, 2, 3).double(), weight.double(), bias.double(), (stride, 1, 1), (0, 1, 1)
    )
    conv = Conv3x3(weight, bias, stride)
    conv.interior(*x.shape[:4]).copy_(x)
    torch.testing.assert_close(conv().permute(0, 4, 1, 2, 3), exact.float(), rtol=0, atol=5e-5)


@pytest.mark.parametrize("frames", [4, 10, 17, 20])
def test_over_time_alone_too_it_differs_by_rounding_alone(frames: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, frames + 2, 5, 8, 64, generator=generator)
    weight = torch.randn(96, 64, 3, generator=generator) / 192**0.5
    bias = torch.randn(96, generator=generator)
    lines = x.permute(0, 2, 3, 4, 1).flatten(0, 2).double()
    exact = F.conv1d(lines, weight.double(), bias.double()).view(2, 5, 8, 96, frames)
    error = TimeConv(weight, bias)(x) - exact.permute(0, 4, 1, 2, 3)
    assert error.abs().max() < 2e-5
    assert error.std() < 2e-6


@torch.no_grad()
def test_few_frames_are_not_filled_up_to_tiles() -> None:
    assert suits_time(torch.empty(1, 20, 64, 64, 128))
    assert suits_time(torch.empty(1, 9, 64, 64, 128))
    assert not suits_time(torch.empty(1, 5, 64, 64, 128))


@torch.no_grad()
def test_only_where_arithmetic_is_the_limit() -> None:
    large = torch.empty(1, 1, 64, 64, 128)
    with torch.enable_grad():
        assert not suits(large, 128, 128)
    assert suits(large, 128, 128)
    assert not suits(large.bfloat16(), 128, 128)
    assert not suits(large, 16, 16)
    assert not suits(large[:, :, :16, :16], 128, 128)
    assert not suits(large.to("meta"), 128, 128)
