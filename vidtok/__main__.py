"""`python -m vidtok VERB`: list the tokenizers, describe one, convert a checkpoint."""

import argparse
import sys
from pathlib import Path

import torch

from vidtok.checkpoint import load, save, save_for_diffusers
from vidtok.presets import PRESETS, bundled_weights, named_config


def main(arguments: list[str] | None = None) -> int:
    """Run one verb. Return the exit code: 0, or 2 if the input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m vidtok", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="print the names of all tokenizers, one per line")
    info = verbs.add_parser("info", help="describe one tokenizer and the clips that it takes")
    info.add_argument("name", help="name of the tokenizer, as `list` prints it")
    to = verbs.add_parser(
        "convert", help="convert a checkpoint to .safetensors that contain their configuration"
    )
    to.add_argument(
        "source",
        type=Path,
        help="checkpoint to read: .ckpt, .safetensors, or a folder of diffusers' AutoencoderVidTok",
    )
    to.add_argument("target", type=Path, help="file to write (.safetensors), or folder")
    to.add_argument(
        "--to",
        choices=("safetensors", "diffusers"),
        default="safetensors",
        help="format to write: safetensors, or diffusers for a folder that"
        " AutoencoderVidTok.from_pretrained opens (v1.1 and non-causal models)",
    )
    to.add_argument(
        "--config", help="name of the configuration, if the file's name does not tell it"
    )
    to.add_argument(
        "--half", action="store_true", help="store weights as float16, which halves the file"
    )
    asked = parser.parse_args(arguments)
    try:
        if asked.verb == "list":
            for name in PRESETS:
                print(f"{name}  (weights in the package)" if bundled_weights(name) else name)
        elif asked.verb == "info":
            _tell(asked.name)
        else:
            if asked.to == "safetensors" and asked.target.suffix != ".safetensors":
                raise ValueError(f"{asked.target}: must end in .safetensors")
            dtype = torch.float16 if asked.half else None
            write = save_for_diffusers if asked.to == "diffusers" else save
            model = load(asked.source, config=asked.config)
            write(model, asked.target, dtype)
            print(f"{asked.target}: {model.config.name}, configuration {model.config.digest}")
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _tell(name: str) -> None:
    config = named_config(name)
    f, s, rest = config.temporal_factor, config.spatial_factor, config.time_rule.length_remainder
    lengths = "any" if rest is None else f"{rest} + {f}k" if rest else f"{f}k"
    print(f"{name}: {config.network}, {config.regularizer}, {config.z_channels} channels")
    print(f"  compression    {f} × {s} × {s}")
    print(f"  codebook       {config.codebook_size or 'none (continuous)'}")
    print(f"  frames         {lengths}; height and width multiples of {s}")
    frames = 17 if rest != 0 else 16
    latent = config.latent_shape(frames, 32 * s, 32 * s)
    print(f"  {frames}×{32 * s}×{32 * s}     gives a latent of {'×'.join(map(str, latent))}")
    print(f"  digest         {config.digest}")


if __name__ == "__main__":
    sys.exit(main())
