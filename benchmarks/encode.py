"""Encoding of one clip compared with the public reference, each in a new process, in turns.

    git clone https://github.com/microsoft/VidTok ../VidTok && pip install beartype einops
    python -m benchmarks.encode --reference ../VidTok

Prints for each encoder the median seconds of one 1×3×17×256×256 clip, the ratio to the reference,
the peak of resident memory, and the number of code indices that differ. There is no warm-up, so the
time is that of a job's first clip. The reference runs without its entropy loss.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

import numpy as np
import torch

from tests.vidtok.deterministic import fill_weights, synthetic_video

MODEL = "vidtok_fsq_causal_488_32768"
WAYS = ("reference", "float32", "bfloat16")
UNUSED = ("lightning.pytorch.utilities.rank_zero", "decord", "torchvision", "imageio", "cv2")
"""Modules that the reference imports and its encoder does not use."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reference", type=Path, required=True, help="folder of its checkout")
    parser.add_argument("--size", type=int, default=256, help="height and width")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.only:
        _encode_once(asked.only, asked.reference, asked.size, asked.threads, asked.out)
        return
    runs: dict[str, list[dict]] = {way: [] for way in WAYS}
    indices: dict[str, np.ndarray] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(asked.rounds):
            for way in WAYS:
                out = Path(folder) / f"{way}.npy"
                command = [sys.executable, "-m", "benchmarks.encode", "--only", way]
                command += ["--reference", str(asked.reference), "--size", str(asked.size)]
                command += ["--threads", str(asked.threads), "--out", str(out)]
                told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
                runs[way].append(json.loads(told.splitlines()[-1]))
                indices[way] = np.load(out)
                print(f"{way:10} {runs[way][-1]['seconds']:7.2f} s", file=sys.stderr)
    print(f"{MODEL}, 1×3×17×{asked.size}×{asked.size}, {asked.threads} threads, ", end="")
    print(f"{asked.rounds} rounds of fresh processes, torch {torch.__version__}")
    base = [run["seconds"] for run in runs["reference"]]
    for way in WAYS:
        seconds = [run["seconds"] for run in runs[way]]
        ratios = sorted(b / s for b, s in zip(base, seconds, strict=True))
        peak = max(run["peak_gib"] for run in runs[way])
        changed = int((indices[way] != indices["reference"]).sum())
        print(
            f"{way:10} {statistics.median(seconds):7.2f} s  ×{statistics.median(ratios):5.2f} "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})  peak {peak:.2f} GiB  "
            f"{changed} of {indices[way].size} indices differ"
        )


def _encode_once(way: str, reference: Path, size: int, threads: int, out: Path) -> None:
    torch.set_num_threads(threads)
    video = synthetic_video(1, 17, size, size)
    encode = _reference(reference) if way == "reference" else _ours(getattr(torch, way))
    started = time.perf_counter()
    indices = encode(video)
    seconds = time.perf_counter() - started
    np.save(out, indices.numpy())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"seconds": seconds, "peak_gib": peak}))


def _ours(dtype: torch.dtype):
    import vidtok

    model = vidtok.build(MODEL)
    fill_weights(model.state_dict())
    model.to(dtype)
    return lambda video: model.encode(video).indices


def _reference(checkout: Path):
    for name in UNUSED:
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            sys.modules.setdefault(".".join(parts[:end]), MagicMock())
    # Its package has our package's name, and no __init__: it is set in ours' place by hand.
    sys.modules["vidtok"] = package = ModuleType("vidtok")
    package.__path__ = [str(checkout / "vidtok")]
    from vidtok.modules.model_3dcausal import EncoderCausal3DPadding
    from vidtok.modules.regularizers import FSQRegularizer

    encoder = EncoderCausal3DPadding(
        ch=128,
        ch_mult=[1, 2, 4, 4],
        in_channels=3,
        out_ch=3,
        z_channels=5,
        double_z=False,
        num_res_blocks=2,
        dropout=0.0,
        use_checkpoint=False,
        init_pad_mode="replicate",
        norm_type="layernorm",
        time_downsample_factor=4,
        fix_encoder=False,
        fix_decoder=False,
    ).eval()
    fill_weights({f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()})
    regularizer = FSQRegularizer(levels=[8] * 5, entropy_loss_weight=0.0)

    @torch.no_grad()
    def encode(video: torch.Tensor) -> torch.Tensor:
        z = encoder(video).movedim(1, -1)
        return regularizer.codes_to_indices(regularizer.quantize(z))

    return encode


if __name__ == "__main__":
    main()
