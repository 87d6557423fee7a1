"""The video autoencoders of diffusers, so narrow that they compute in a fraction of a second."""

from pathlib import Path
from typing import Any

import torch

from pipeline.config.job import JobConfig, TokenizerSpec
from tests.lazy import diffusers

_FOUR, _FIVE = (8,) * 4, (1,) * 5

SMALL: dict[str, dict[str, Any]] = {
    "AutoencoderKLWan": {
        "base_dim": 4,
        "z_dim": 4,
        "dim_mult": [1, 1, 1, 1],
        "num_res_blocks": 1,
        "latents_mean": [0.1, -0.2, 0.3, 0.0],
        "latents_std": [1.0, 0.3, 2.0, 4.0],
    },
    "AutoencoderKLLTXVideo": {
        "latent_channels": 4,
        "block_out_channels": _FOUR,
        "decoder_block_out_channels": _FOUR,
        "layers_per_block": _FIVE,
        "decoder_layers_per_block": _FIVE,
        "spatio_temporal_scaling": (True, True, False, False),
        "decoder_spatio_temporal_scaling": (True, True, False, False),
        "patch_size": 2,
        "timestep_conditioning": True,
    },
    "AutoencoderKLLTX2Video": {
        "latent_channels": 4,
        "block_out_channels": (8, 8, 16, 32),
        "decoder_block_out_channels": (8, 16, 32),
        "layers_per_block": _FIVE,
        "decoder_layers_per_block": (1,) * 4,
        "patch_size": 2,
        "temporal_compression_ratio": 8,
        "spatial_compression_ratio": 16,
    },
    "AutoencoderKLHunyuanVideo": {
        "latent_channels": 4,
        "block_out_channels": _FOUR,
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "AutoencoderKLHunyuanVideo15": {
        "latent_channels": 4,
        "block_out_channels": (8,) * 5,
        "layers_per_block": 1,
    },
    "AutoencoderKLCogVideoX": {
        "latent_channels": 4,
        "block_out_channels": _FOUR,
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "AutoencoderKLCosmos": {
        "latent_channels": 4,
        "encoder_block_out_channels": _FOUR,
        "decode_block_out_channels": _FOUR,
        "attention_resolutions": (8,),
        "resolution": 64,
        "num_layers": 1,
        "patch_size": 2,
        "temporal_compression_ratio": 4,
    },
    "AutoencoderKLMochi": {
        "encoder_block_out_channels": (32,) * 4,
        "decoder_block_out_channels": (32,) * 4,
        "latent_channels": 4,
        "layers_per_block": _FIVE,
        "latents_mean": [0.1] * 4,
        "latents_std": [0.5] * 4,
    },
    "AutoencoderVidTok": {"ch": 8, "ch_mult": [1, 1, 1, 1], "z_channels": 4, "num_res_blocks": 1},
}


def make(name: str, seed: int = 0, **changes: Any) -> Any:
    """Return an autoencoder with random weights, in eval mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return getattr(diffusers, name)(**{**SMALL[name], **changes}).eval()


def save(folder: Path, name: str, seed: int = 0, **changes: Any) -> str:
    """Write one in the library's layout; return the folder."""
    make(name, seed, **changes).save_pretrained(folder)
    return str(folder)


def spec(folder: str | Path, name: str = "AutoencoderKLWan", **more: Any) -> TokenizerSpec:
    values = {"name": "x", "model": f"diffusers:{name}", "weights": str(folder), **more}
    return TokenizerSpec.model_validate(values)


def job(folder: Path, *specs: TokenizerSpec, **clip: Any) -> JobConfig:
    shape = {"frames": 5, "height": 32, "width": 48, "fps": 4.0, **clip}
    return JobConfig.model_validate(
        {
            "source": {"uri": [str(folder / "in")]},
            "clip": shape,
            "tokenizers": [one.model_dump() for one in specs],
            "output": {"uri": str(folder / "out")},
        }
    )
