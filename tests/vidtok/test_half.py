"""Half precision on a CPU: in float32 with rounded weights, unless the processor has units."""

import pytest
import torch

from tests.vidtok.deterministic import synthetic_video
from tests.vidtok.small import small
from vidtok import half

AMD = "vendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 avx512f avx512_bf16\n"
INTEL = "vendor_id\t: GenuineIntel\nflags\t\t: fpu avx2 avx512f avx512_bf16 avx512_fp16"


@pytest.mark.parametrize(
    ("cpuinfo", "fast"),
    [
        (AMD, True),
        (AMD.replace(" avx512_bf16", ""), False),
        (INTEL, False),
        (INTEL + " amx_bf16 amx_tile amx_int8", True),
        (INTEL + " amx_tile amx_int8", False),
        ("Features\t: fp asimd bf16", False),
        ("", False),
    ],
)
def test_a_processor_has_units_by_its_flags(cpuinfo: str, fast: bool) -> None:
    assert half.bfloat16_is_fast(cpuinfo) == fast


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("network", ["causal_v1_0", "causal_v1_1", "noncausal"])
def test_without_units_a_network_is_float32_with_rounded_weights(
    network: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(half, "cpu_is_fast", lambda dtype: dtype == torch.float32)
    model, rounded = (small(network, "kl").to(dtype) for _ in range(2))
    rounded.float()
    video = synthetic_video(1, 17 if model.config.causal else 16, 16, 24)
    mean = model.encode(video).latent
    assert torch.equal(mean, rounded.encode(video).latent)
    frames = model.decode(mean, video.shape[2])
    assert torch.equal(frames, rounded.decode(mean, video.shape[2]).to(dtype))
    assert (model.dtype, frames.dtype) == (dtype, dtype)
    if network == "causal_v1_1":
        stream = model.encode_stream(17, 8)
        pushed = [stream.push(video[:, :, :9]), stream.push(video[:, :, 9:])]
        found = torch.cat([part.latent for part in pushed if part is not None], 2)
        torch.testing.assert_close(found, mean, rtol=0, atol=2e-5)
        tiled = model.encode(video, tile=16).latent
        torch.testing.assert_close(tiled, mean, rtol=0, atol=2e-5)
        as_reference = model.encode(video, chunk_frames=8, as_reference=True).latent
        assert torch.equal(
            as_reference, rounded.encode(video, chunk_frames=8, as_reference=True).latent
        )


def test_weights_that_change_change_the_result() -> None:
    model = small("causal_v1_1", "kl").bfloat16()
    video = synthetic_video(1, 5, 16, 16)
    before = model.encode(video).latent
    with torch.no_grad():
        model.encoder.conv_out.conv.bias += 1
    assert not torch.equal(model.encode(video).latent, before)


def test_with_units_a_network_computes_in_its_own_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half, "cpu_is_fast", lambda dtype: True)
    model = small("causal_v1_0", "kl").bfloat16()
    seen: list[torch.dtype] = []
    model.encoder.mid.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    model.encode(synthetic_video(1, 17, 16, 24))
    monkeypatch.setattr(half, "cpu_is_fast", lambda dtype: dtype == torch.float32)
    model.encode(synthetic_video(1, 17, 16, 24))
    assert seen == [torch.bfloat16, torch.float32]
