"""Mutated videos through the real decoder, and what must hold whatever they are."""

import hashlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from pipeline.decode import ClipRule, DecodeLimits, Decoder
from pipeline.decode.decoder import ATTEMPTS
from pipeline.quarantine import REASONS, QuarantineError
from pipeline.records import Sample
from tests.fuzz.mutations import mutate

RULE = ClipRule(frames=5, height=32, width=40, fps=8.0, short="pad")
LIMITS = DecodeLimits(timeout_s=5, memory_mb=256)
_SLACK_S = 5.0
"""For a new fork server to import torch, and for a busy machine."""
_TWICE_EVERY = 10
_MOST_CLIPS = 20_000


@dataclass(slots=True)
class Tally:
    """Outcomes of the mutants so far."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """`whole`, `clips, then <reason>` or `<reason>` → mutants."""
    clips: int = 0
    children_lost: int = 0
    """Decoder processes that a mutant ended: crashes, deadlines, memory that was kept."""
    slowest_s: float = 0.0
    most_mb: int = 0
    """Peak of a child's private memory above what an idle one has, in MiB."""
    violations: list[str] = field(default_factory=list)
    """What must not happen, with the seed that repeats it."""


def fuzz(originals: Sequence[bytes], seeds: Iterable[int], good: Sample) -> Iterator[Tally]:
    """Decode mutants; yield the tally after each.

    Args:
        originals: the files that are mutated.
        seeds: one mutant each.
        good: a sound video, decoded again whenever a mutant has cost a child.
    """
    tally = Tally()
    with Decoder(RULE, LIMITS) as decoder:
        expected, _ = _outcome(decoder, good, tally, seed=-1)
        idle = _peak_mb(decoder)
        for seed in seeds:
            mutant = Sample(key=str(seed), video=mutate(originals, seed), video_name="mutant.mp4")
            before = decoder.pid
            outcome, name = _outcome(decoder, mutant, tally, seed)
            tally.outcomes[name] += 1
            lost = before is not None and decoder.pid != before
            if lost:
                tally.children_lost += 1
            elif before is not None:
                tally.most_mb = max(tally.most_mb, _peak_mb(decoder) - idle)
                if tally.most_mb > LIMITS.memory_mb:
                    tally.violations.append(f"seed {seed}: the child took {tally.most_mb} MiB")
            if seed % _TWICE_EVERY == 0 and _outcome(decoder, mutant, tally, seed)[0] != outcome:
                tally.violations.append(f"seed {seed}: came out differently the second time")
            if lost and _outcome(decoder, good, tally, seed)[0] != expected:
                tally.violations.append(f"seed {seed}: a sound video after it came out differently")
            yield tally


def _outcome(decoder: Decoder, sample: Sample, tally: Tally, seed: int) -> tuple[str, str]:
    """Return a digest of all that came out, and the outcome's name."""
    digest, clips, end = hashlib.sha256(), 0, "whole"
    began = time.monotonic()
    try:
        with closing(decoder.decode(sample, "u")) as found:
            for clip, frames in found:
                digest.update(repr(clip).encode())
                if frames is not None:
                    assert frames.shape == RULE.shape
                    digest.update(frames.tobytes())
                clips += 1
                began = _on_time(began, tally, seed)
                if clips > _MOST_CLIPS:
                    tally.violations.append(f"seed {seed}: clips without end")
                    break
    except QuarantineError as error:
        end = error.reason
        if end not in REASONS:
            tally.violations.append(f"seed {seed}: unknown reason {end}")
    except Exception as error:
        end = "exception"
        tally.violations.append(f"seed {seed}: {type(error).__name__}: {error}")
    _on_time(began, tally, seed)
    tally.clips += clips
    digest.update(end.encode())
    return digest.hexdigest(), end if not clips or end == "whole" else f"clips, then {end}"


def _on_time(began: float, tally: Tally, seed: int) -> float:
    now = time.monotonic()
    tally.slowest_s = max(tally.slowest_s, now - began)
    if now - began > ATTEMPTS * LIMITS.timeout_s + _SLACK_S:
        tally.violations.append(f"seed {seed}: nothing for {now - began:.0f} s")
    return now


def _peak_mb(decoder: Decoder) -> int:
    """Return the most resident memory that the child ever had."""
    with open(f"/proc/{decoder.pid}/status", encoding="ascii") as status:
        [line] = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) >> 10
