"""Encoders of sound, so narrow that they compute in milliseconds."""

from pathlib import Path
from typing import Any

import torch

from tests.lazy import diffusers, transformers

RATE = 16_000

MIMI = {
    "num_filters": 4,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "intermediate_size": 16,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "codebook_size": 512,
    "codebook_dim": 8,
    "vector_quantization_hidden_dimension": 8,
    "num_quantizers": 4,
    "num_semantic_quantizers": 1,
    "upsampling_ratios": [4, 4],
    "upsample_groups": 16,
}
ENCODEC = {
    "num_filters": 4,
    "hidden_size": 16,
    "codebook_dim": 16,
    "codebook_size": 32,
    "num_lstm_layers": 1,
    "upsampling_ratios": [8, 8],
    "target_bandwidths": [1.25, 5.0],
}
DAC = {
    "encoder_hidden_size": 8,
    "downsampling_ratios": [2, 4],
    "decoder_hidden_size": 16,
    "n_codebooks": 3,
    "codebook_size": 32,
    "codebook_dim": 4,
}
OOBLECK = {
    "encoder_hidden_size": 8,
    "downsampling_ratios": [2, 4],
    "channel_multiples": [1, 2],
    "decoder_channels": 8,
    "decoder_input_channels": 4,
    "audio_channels": 1,
}


def save(folder: Path, model: str) -> Path:
    """Write a random model of a class into a folder; return the folder."""
    torch.manual_seed(0)
    package, _, name = model.partition(":")
    if package == "diffusers":
        made: Any = diffusers.AutoencoderOobleck(**OOBLECK, sampling_rate=RATE)
    else:
        values = {"EncodecModel": ENCODEC, "DacModel": DAC, "MimiModel": MIMI}[name]
        config = getattr(transformers, name.replace("Model", "Config"))
        made = getattr(transformers, name)(config(**values, sampling_rate=RATE))
    for key, tensor in made.named_buffers():
        if key.endswith(("embed", "embed_sum")):  # codebooks begin as zeros
            tensor.normal_()
    if name == "EncodecModel":  # its embeddings vary too little for their codes to differ
        for weight in made.encoder.parameters():
            weight.data.mul_(2)
    made.save_pretrained(folder)
    return folder
