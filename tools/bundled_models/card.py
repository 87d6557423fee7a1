"""Print the scores of the bundled models: each tokenizer beside "shrink and enlarge", by video.

They are in `docs/explanation/models.md`.

    python -m pipeline evaluate docs/models/card.yaml
    python -m tools.bundled_models.card out/card/scores.json

A margin is a score minus that of the bicubic baseline on the same video.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

BASELINE = "shrink"
"""First word of the baseline's name in an evaluation."""


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("scores", type=Path, help="scores.json of an evaluation")
    asked = parser.parse_args(arguments)
    try:
        results = json.loads(asked.scores.read_text(encoding="utf-8"))
        print("\n".join(card(results["videos"])))
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"error: {asked.scores}: {type(error).__name__}: {error}")


def card(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a Markdown table: PSNR in dB and SSIM of each video, margins, and means over videos.

    Args:
        rows: rows of `videos` in an evaluation's results, with a baseline among the candidates.

    Raises:
        ValueError: no candidate is the baseline.
    """
    scores: dict[str, dict[str, tuple[float, float]]] = {}
    for row in rows:
        scores.setdefault(row["candidate"], {})[row["video"]] = row["psnr"], row["ssim"]
    bases = [name for name in scores if name.startswith(BASELINE)]
    if not bases:
        raise ValueError(f"no candidate begins with {BASELINE!r}: add it to baselines")
    base = scores.pop(bases[0])
    lines = [
        f"| video | bicubic | {' | '.join(f'{name} | margin' for name in scores)} |",
        f"|{' --- |' * (2 + 2 * len(scores))}",
    ]
    for video in base:
        cells = [_both(base[video])]
        for by_video in scores.values():
            cells += [_both(by_video[video]), _margin(by_video[video], base[video])]
        lines.append(f"| {video} | {' | '.join(cells)} |")
    mean = _mean(base)
    cells = [_both(mean)]
    for by_video in scores.values():
        cells += [_both(_mean(by_video)), _margin(_mean(by_video), mean)]
    return [*lines, f"| mean | {' | '.join(cells)} |"]


def _mean(by_video: Mapping[str, tuple[float, float]]) -> tuple[float, float]:
    psnr, ssim = zip(*by_video.values(), strict=True)
    return fmean(psnr), fmean(ssim)


def _both(score: tuple[float, float]) -> str:
    return f"{score[0]:.2f} / {score[1]:.3f}"


def _margin(score: tuple[float, float], base: tuple[float, float]) -> str:
    return f"{score[0] - base[0]:+.2f} / {score[1] - base[1]:+.3f}"


if __name__ == "__main__":
    main()
