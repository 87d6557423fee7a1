"""A batch gives what its clips give one by one, for every network, size, length, chunk and type.

Libraries choose their kernels by the size of a batch too, so the results are equal up to rounding:
of float32 within the tolerance of `test_goldens`, of half precision within that by which
`test_autoencoder` lets it differ from float32. What belongs to another clip or frame is wrong by a
standard deviation and more.
"""

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.vidtok.deterministic import synthetic_video
from tests.vidtok.small import small
from vidtok import Tokenizer, bundled_weights, list_models, load
from vidtok.reference import lengthen
from vidtok.temporal import Stream
from vidtok.time_rule import RULES
from vidtok.winograd import suits

ATOL = 1e-4
SPREAD = {torch.bfloat16: 0.05, torch.float16: 0.01}
"""Standard deviation of the error of half precision, as fraction of the results' own."""
BUNDLED = [name for name in list_models() if bundled_weights(name)]


@cache
def model_of(network: str, dtype: torch.dtype = torch.float32, **more: object) -> Tokenizer:
    """Return a 4×4×4 network whose layers are checked to give contiguous activations."""
    model = small(network, "kl", **({"ch_mult": (1, 2, 3)} | more)).to(dtype)
    for layer in model.modules():
        layer.register_forward_hook(must_be_contiguous)
    return model


def must_be_contiguous(layer: nn.Module, inputs: tuple, output: Tensor) -> None:
    """A layer views its input as pictures `[B·T, H, W, C]`: not every strided tensor has them."""
    assert output.is_contiguous(), f"{type(layer).__name__}: {output.shape}, {output.stride()}"


def assert_same(found: Tensor, expected: list[Tensor], dtype: torch.dtype = torch.float32) -> None:
    together, alone = found.float(), torch.cat(expected).float()
    if dtype == torch.float32:
        torch.testing.assert_close(together, alone, rtol=0, atol=ATOL)
    else:
        assert (together - alone).std() < SPREAD[dtype] * alone.std()


@st.composite
def batches(draw: st.DrawFn, network: str) -> Tensor:
    """Draw 1 to 3 clips of any length of up to 3 latent frames that a network takes."""
    rest = RULES[network].length_remainder
    frames = draw(st.sampled_from([n for n in range(1, 13) if rest is None or n % 4 == rest]))
    clips, height, width = (draw(st.integers(1, most)) for most in (3, 3, 5))
    return synthetic_video(clips, frames, 4 * height, 4 * width, seed=frames)


@pytest.mark.parametrize("network", RULES)
@settings(max_examples=8)  # an example takes a tenth of a second
@given(st.data(), st.sampled_from((torch.float32, *SPREAD)), st.booleans())
def test_a_batch_equals_its_clips(
    network: str, data: st.DataObject, dtype: torch.dtype, as_reference: bool
) -> None:
    model, video = model_of(network, dtype), data.draw(batches(network))
    chunk = data.draw(st.sampled_from((None, 4, 8))) if RULES[network].chunkable else None
    encoded = model.encode(video, chunk, as_reference)
    alone = [model.encode(clip[None], chunk, as_reference) for clip in video]
    assert_same(encoded.mean, [one.mean for one in alone], dtype)
    assert_same(encoded.logvar, [one.logvar for one in alone], dtype)
    decoded = model.decode(encoded.mean, video.shape[2], chunk, as_reference)
    assert decoded.shape == video.shape
    assert_same(
        decoded,
        [model.decode(z[None], video.shape[2], chunk, as_reference) for z in encoded.mean],
        dtype,
    )


@pytest.mark.parametrize("network", RULES)
@settings(max_examples=3)
@given(st.data())
def test_gradients_of_a_batch_are_the_sums_of_its_clips(network: str, data: st.DataObject) -> None:
    model, video = model_of(network), data.draw(batches(network))
    x_BTHWC = video.movedim(1, -1).contiguous()
    together = gradients(model, x_BTHWC)
    alone = [gradients(model, x[None]) for x in x_BTHWC]
    largest = max(gradient.abs().max().item() for gradient in together)
    for found, *parts in zip(together, *alone, strict=True):
        expected = torch.stack(parts).sum(0)
        # Some gradients are zero except for rounding: attention's keys and queries at one position.
        atol = 1e-3 * expected.abs().max().item() + 1e-6 * largest
        torch.testing.assert_close(found, expected, rtol=0, atol=atol)


def gradients(model: Tokenizer, x_BTHWC: Tensor) -> list[Tensor]:
    """Return the gradients of all weights for the sum of squares of the reconstruction."""
    rule, Z = model.config.time_rule, model.config.z_channels
    latent = model.encoder(lengthen(model.config, x_BTHWC), Stream(rule))[..., :Z]
    loss = model.decoder(latent, Stream(rule)).square().sum()
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("network", RULES)
def test_a_batch_of_wide_layers_equals_its_clips(network: str) -> None:
    """The batch is large enough for Winograd's convolutions, and its clips are not."""
    model = model_of(network, ch=64, ch_mult=(1, 1, 1))
    video = synthetic_video(2, 9 if model.config.causal else 8, 16, 24)
    with torch.no_grad():
        x_BTHWC = video.movedim(1, -1)
        assert [suits(x, 64, 64) for x in (x_BTHWC, x_BTHWC[:1])] == [True, False]
    latent = model.encode(video).mean
    assert_same(latent, [model.encode(clip[None]).mean for clip in video])
    assert_same(model.decode(latent), [model.decode(z[None]) for z in latent])


@pytest.mark.parametrize("clips", [2, 3])
@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_models_take_batches_of_single_images(name: str, clips: int) -> None:
    model = load(name)
    images = synthetic_video(clips, 1, 24, 40)
    encoded, alone = model.encode(images), [model.encode(image[None]) for image in images]
    assert_same(encoded.latent, [one.latent for one in alone])
    decoded = model.decode(encoded.latent, num_frames=1)
    assert decoded.shape == images.shape
    assert_same(decoded, [model.decode(z[None], num_frames=1) for z in encoded.latent])
