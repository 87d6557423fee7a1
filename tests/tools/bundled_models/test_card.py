"""The program that prints the scores of the bundled models."""

import json
from pathlib import Path

import pytest

from tools.bundled_models import card


def row(video: str, candidate: str, psnr: float, ssim: float) -> dict[str, object]:
    return {"unit": "u", "video": video, "candidate": candidate, "psnr": psnr, "ssim": ssim}


ROWS = [
    row("a.mp4", "kl", 25.0, 0.75),
    row("a.mp4", "shrink_488", 21.0, 0.625),
    row("b.mp4", "kl", 31.0, 0.5),
    row("b.mp4", "shrink_488", 29.0, 0.875),
]


def test_margins_are_over_the_baseline_and_means_are_over_videos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({"videos": ROWS}))
    card.main([str(scores)])
    assert capsys.readouterr().out.splitlines() == [
        "| video | bicubic | kl | margin |",
        "| --- | --- | --- | --- |",
        "| a.mp4 | 21.00 / 0.625 | 25.00 / 0.750 | +4.00 / +0.125 |",
        "| b.mp4 | 29.00 / 0.875 | 31.00 / 0.500 | +2.00 / -0.375 |",
        "| mean | 25.00 / 0.750 | 28.00 / 0.625 | +3.00 / -0.125 |",
    ]


def test_an_evaluation_without_the_baseline_is_an_error(tmp_path: Path) -> None:
    scores = tmp_path / "scores.json"
    scores.write_text(json.dumps({"videos": [r for r in ROWS if r["candidate"] == "kl"]}))
    with pytest.raises(SystemExit, match=r"scores\.json: ValueError: .* add it to baselines"):
        card.main([str(scores)])
