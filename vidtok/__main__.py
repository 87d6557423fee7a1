"""`python -m vidtok VERB`: list tokenizers, describe one, convert a checkpoint, rank channels."""

import argparse
import math
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch

from vidtok import channels
from vidtok.checkpoint import load, load_network, locate, save, save_for_diffusers
from vidtok.digest import weights_digest
from vidtok.presets import PRESETS, bundled_weights, named_config

_LEAST_CLIPS = 8
"""Least number of clips to fit to. Every eighth clip is not fitted but judged."""

_MAKER = "give the model and the weights that made the tokens"


def main(arguments: list[str] | None = None) -> int:
    """Run one verb. Return the exit code: 0, or 2 if the input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m vidtok", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="print the names of all tokenizers, one per line")
    info = verbs.add_parser("info", help="describe one tokenizer and the clips that it takes")
    info.add_argument("name", help="name of the tokenizer, as `list` prints it")
    to = verbs.add_parser(
        "convert",
        help="convert a checkpoint to a .safetensors file that contains its configuration, or to"
        " a folder of diffusers",
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
    rank = verbs.add_parser(
        "channels",
        help="rank the channels of an FSQ model by their effect on decoded clips, so that its"
        " tokens can be read and decoded with fewer channels; needs tokens, but no videos",
    )
    rank.add_argument("model", help="name of the model, or a checkpoint")
    rank.add_argument(
        "tokens", help="dataset of its tokens, or a Parquet file or folder that the pipeline wrote"
    )
    rank.add_argument("--column", help="name of the column, if several columns hold code indices")
    rank.add_argument(
        "--clips",
        type=int,
        default=256,
        help="maximum number of clips to read, spread evenly over the dataset (default:"
        " %(default)s). 256 clips of 17×128×128 have 2,400 cells for each of the 136 numbers that"
        " are fitted to fill in a channel from five others.",
    )
    rank.add_argument(
        "--out",
        type=Path,
        help=f"file to write (default: <stem>{channels.SUFFIX} beside the model, where vidtok.load"
        " finds it)",
    )
    rank.add_argument(
        "--config", help="name of the configuration, if the file's name does not tell it"
    )
    asked = parser.parse_args(arguments)
    try:
        if asked.verb == "list":
            for name in PRESETS:
                print(f"{name}  (weights in the package)" if bundled_weights(name) else name)
        elif asked.verb == "info":
            _tell(asked.name)
        elif asked.verb == "channels":
            _rank(asked)
        else:
            if asked.to == "safetensors" and asked.target.suffix != ".safetensors":
                raise ValueError(f"{asked.target}: must end in .safetensors")
            dtype = torch.float16 if asked.half else None
            write = save_for_diffusers if asked.to == "diffusers" else save
            model = load(asked.source, config=asked.config)
            write(model, asked.target, dtype)
            if model.channels is not None:
                stored = {name: t.to(dtype or t.dtype) for name, t in model.state_dict().items()}
                order = replace(model.channels, weights=weights_digest(stored))
                channels.save(order, channels.beside(asked.target))
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


def _rank(asked: argparse.Namespace) -> None:
    from pipeline.errors import PipelineError
    from pipeline.reading.token_clips import read_token_clips
    from vidtok import channel_fit

    if asked.clips < _LEAST_CLIPS:
        raise ValueError(f"--clips {asked.clips}: must be {_LEAST_CLIPS} or more")
    path = locate(asked.model)
    target = asked.out or channels.beside(path)
    _require_writable(target)
    # Without the channels file there: it is replaced, and can be damaged or of older weights.
    model = load_network(path, asked.config)
    channel_fit.require_fsq(model)
    try:
        read = read_token_clips(asked.tokens, asked.column, asked.clips)
    except PipelineError as error:
        raise ValueError(str(error)) from error
    where, ours = f"{asked.tokens}: column {read.column.name}", model.config
    if read.levels not in (None, ours.fsq_levels):
        text = f"levels {read.levels}; {ours.name} has {ours.fsq_levels}"
        raise ValueError(f"{where}: {text}; {_MAKER}")
    if read.levels is None and read.column.model != ours.name:
        text = f"was made by {read.column.model}, not by {ours.name}"
        raise ValueError(f"{where}: {text}; {_MAKER}")
    if read.weights not in (None, weights_digest(model.state_dict())):
        raise ValueError(f"{where}: was made with other weights than {path}; {_MAKER}")
    if len(read.clips) < _LEAST_CLIPS:
        text = f"has {len(read.clips)} clips; {_LEAST_CLIPS} are needed"
        raise ValueError(f"{where}: {text}; tokenize more")
    fitted = [clip for n, clip in enumerate(read.clips) if n % _LEAST_CLIPS]
    order = channel_fit.fit(model, fitted)
    channels.save(order, target)
    print(f"{ours.name}: channels by worth {', '.join(map(str, order.order))}")
    print(f"fitted to {len(fitted)} clips; PSNR of others, to those decoded from all channels:")
    print("channels       codes  bits/token  PSNR, dB")
    for k in range(len(order.order), 0, -1):
        near = channel_fit.fidelity(model, order, read.clips[::_LEAST_CLIPS], k)
        size = order.codebook_size(k)
        shown = f"{near:.2f}" if k < len(order.order) else "all"
        print(f"{k:8}{size:12,}{math.log2(size):12.2f}{shown:>10}")
    print(target)


def _require_writable(target: Path) -> None:
    """Refuse a file to write in a folder that is missing or protected, or that is a folder."""
    folder = target.parent
    if target.is_dir():
        raise ValueError(f"{target}: is a folder; name a file")
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ValueError(
            f"{folder}: is not a folder that can be written to; make it, or name a file in another"
            " one with --out"
        )


if __name__ == "__main__":
    sys.exit(main())
