"""Scores of a tokenizer in training on held-out clips, a picture of them, and the best weights."""

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from pipeline.decode import ClipRule, Decoder
from pipeline.errors import ConfigError, Diverged
from pipeline.quarantine import Quarantined, QuarantineError
from pipeline.records import Sample
from pipeline.sources.planning import plan_units
from pipeline.sources.reader import SampleReader
from pipeline.storage.store import Store
from pipeline.tokenizers.pictures import Strip, draw
from pipeline.training.clip_config import ClipSourceConfig
from pipeline.training.config import BestBy
from vidtok import Tokenizer, channels
from vidtok.checkpoint import save
from vidtok.evaluation.codebook import CodebookUse
from vidtok.evaluation.meter import score_clip
from vidtok.lpips import LPIPS

BEST: Final = "best.safetensors"
"""Name of the file in a stage's folder with the best averaged weights."""

_SHOWN = 4


@torch.no_grad()
def validate(
    tokenizer: Tokenizer, clips: Sequence[tuple[str, Tensor]], lpips: LPIPS | None = None
) -> tuple[dict[str, float], bytes]:
    """Reconstruct held-out clips one by one.

    Args:
        tokenizer: in eval mode.
        clips: name and frames, uint8 `[T, H, W, 3]`.
        lpips: network on the tokenizer's device; None omits LPIPS.

    Returns:
        PSNR in dB, SSIM and, with a network, LPIPS, means over clips; for FSQ also `code_bits`, the
        sum of the channels' entropies in bits per token, and `levels_used`, the fraction of levels
        in use; for a tokenizer with an order of channels `psnr_4`, the PSNR of prefixes of 4 of
        them. Then a PNG of some clips with their reconstructions and errors.

    Raises:
        Diverged: a latent is not finite.
    """
    levels = tokenizer.config.fsq_levels
    use = CodebookUse(levels) if levels else None
    scores: dict[str, list[float]] = {}
    strips: list[Strip] = []
    for name, frames in clips:
        x = (frames.to(tokenizer.device).float() / 127.5 - 1).permute(3, 0, 1, 2)[None]
        encoded = tokenizer.encode(x)
        if not encoded.latent.isfinite().all():  # FSQ has no indices for it
            raise Diverged(f"held-out clip {name}: its latent is not finite")
        y = tokenizer.decode(encoded.latent, num_frames=x.shape[2]).float()
        for metric, values in score_clip(x, y, lpips).items():
            scores.setdefault(metric, []).append(float(values.mean()))
        if use is not None:
            assert encoded.indices is not None
            use.update(encoded.indices)
            for k in tokenizer.channels.fills if tokenizer.channels else ():
                y_k = _of_prefixes(tokenizer, encoded.indices, k, num_frames=x.shape[2])
                psnr = score_clip(x, y_k, None)["psnr"].mean()
                scores.setdefault(f"psnr_{k}", []).append(float(psnr))
        if len(strips) < 2 * _SHOWN:
            original = x.cpu()
            strips.append(Strip(name.rsplit("/", 1)[-1], original))
            strips.append(Strip("reconstruction", y.cpu(), original))
    means = {metric: sum(values) / len(values) for metric, values in scores.items()}
    if use is not None:
        counts = use.level_counts()
        used = sum(count > 0 for channel in counts for count in channel)
        means["levels_used"] = used / sum(levels)
        means["code_bits"] = float(use.summary()["channel_bound_bits"])
    return means, draw(strips)


def _of_prefixes(tokenizer: Tokenizer, indices: Tensor, k: int, num_frames: int) -> Tensor:
    """Return what a tokenizer with an order of channels decodes from the first k of them."""
    assert tokenizer.channels is not None
    prefixes = tokenizer.channels.prefix_indices(indices, k)
    return tokenizer.decode_indices(prefixes, num_frames, channels=k).float()


class BestWeights:
    """The weights with the best score so far, in `best.safetensors` of a stage's folder.

    Step and score are metadata of the file. So weights and record never differ, and a run that
    resumes compares with what the file holds.

    Args:
        store: the stage's folder.
        by: score that decides, the mean over the clips.
        clips: held-out clips. Scores on other clips do not compare.
        resumed: whether the run continues from a checkpoint; otherwise an older file is replaced.
    """

    def __init__(
        self, store: Store, by: BestBy, clips: Sequence[tuple[str, Tensor]], *, resumed: bool
    ) -> None:
        self._store = store
        self._by = by
        what = hashlib.sha256()
        for name, frames in clips:
            what.update(f"{name} {list(frames.shape)}\0".encode())
            what.update(frames.contiguous().numpy().tobytes())
        self._of = {"best_by": by, "best_of": what.hexdigest()[:16]}
        known = _metadata(store) if resumed and store.exists(BEST) else {}
        same = self._of.items() <= known.items()
        self._score = float(known["best_score"]) if same else None

    def offer(self, tokenizer: Tokenizer, step: int, scores: dict[str, float]) -> bool:
        """Keep the weights if their score is the best so far, and return whether it is.

        NaN, as of weights that diverged, is never the best.
        """
        score, best = scores[self._by], self._score
        better = best is None or (score < best if self._by == "lpips" else score > best)
        if math.isnan(score) or not better:
            return False
        about = {**self._of, "best_score": repr(score), "best_step": str(step)}
        write_weights(self._store, BEST, tokenizer, about)
        self._score = score
        return True


def _metadata(store: Store) -> dict[str, str]:
    """Return the metadata of the file, which begins with the length of its JSON header."""
    with store.open(BEST) as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    found: dict[str, str] = header["__metadata__"]
    return found


def write_weights(
    store: Store, name: str, tokenizer: Tokenizer, about: Mapping[str, str] | None = None
) -> None:
    """Write a file of weights that `vidtok.load` reads, with more metadata.

    The order of channels, if the tokenizer has one, is written before in a file beside it.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        save(tokenizer, path, about=about)
        if tokenizer.channels is not None:
            beside = channels.beside(path)
            channels.save(tokenizer.channels, beside)
            store.write(beside.name, beside.read_bytes())
        store.write(name, path.read_bytes())


def held_out_clips(config: ClipSourceConfig, *, fps: float | None) -> list[tuple[str, Tensor]]:
    """Return the first clip of every video of a source, cropped at the centre.

    Args:
        config: the source and the clip's shape; its other settings are not used.
        fps: frames per second of presentation time; None takes every frame. A video that is too
            short holds its last frame.

    Returns:
        Name of the video, `unit/key`, and its clip, uint8 `[T, H, W, 3]`; in the source's order.

    Raises:
        ConfigError: a video cannot be decoded. Scores over fewer videos would not be comparable.
        StoreError: the source cannot be read.
    """
    rule = ClipRule(
        frames=config.frames, height=config.height, width=config.width, fps=fps, short="pad"
    )
    with Decoder(rule) as decoder:
        return [
            (f"{unit.unit}/{sample.key}", _first_clip(decoder, sample, unit.unit))
            for unit in plan_units(config, single=True)
            for sample in SampleReader(config).read(unit)
        ]


def _first_clip(decoder: Decoder, sample: Sample | Quarantined, unit: str) -> Tensor:
    if isinstance(sample, Sample):
        try:
            _, frames = next(decoder.decode(sample, unit))
            return torch.from_numpy(frames)
        except QuarantineError as error:
            sample = Quarantined.of(error, unit=unit, key=sample.key)
    raise ConfigError(
        f"held-out video {sample.key}: {sample.reason}: {sample.detail}; repair the file, or add"
        " its key to exclude"
    )
