"""Shapes of clips that tokenizers take at their size and rate."""

import re
from pathlib import Path

import pytest

from pipeline.job.config_checks import facts_faults, load_config
from pipeline.tokenizers.protocol import Facts, Lengths


def test_the_example_of_a_staged_training_is_valid(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs/reference/tokenizers.md").read_text()
    [example] = re.findall(r"^```yaml\n(# staged\.yaml.*?)^```", text, re.MULTILINE | re.DOTALL)
    path = tmp_path / "staged.yaml"
    path.write_text(example)
    random = [f"tokenizers.{n}.weights=random" for n in range(4)]
    config = load_config(str(path), random)
    wan = Facts(
        kind="latents",
        channels=16,
        temporal_factor=4,
        spatial_factor=8,
        lengths=Lengths(multiple=4, remainders=(1,)),
    )
    assert [fault for n in range(4) for fault in facts_faults(config, n, wan)] == []
    smaller = load_config(str(path), [*random, "clip.height=720", "clip.frames=53"])
    found = [str(fault) for n in range(4) for fault in facts_faults(smaller, n, wan)]
    assert [line.partition(":")[0] for line in found] == ["clip.frames = 53"]


@pytest.mark.parametrize(
    ("lengths", "frames", "every", "near"),
    [
        (Lengths(multiple=4, remainders=(1,)), 16, 1, [13, 17]),
        (Lengths(multiple=4, remainders=(1,)), 17, 2, [17]),
        (Lengths(multiple=4, remainders=(1,)), 18, 3, [13, 25]),
        (Lengths(multiple=16, least=16), 16, 2, [32]),
        (Lengths(multiple=8, remainders=(0, 1)), 12, 2, [1, 16]),
        (Lengths(least=3), 2, 2, [5]),
        (Lengths(multiple=4, remainders=(2,), least=2), 6, 2, []),
    ],
)
def test_the_next_lengths_are_valid_with_every(
    lengths: Lengths, frames: int, every: int, near: list[int]
) -> None:
    assert lengths.near(frames, every) == near
    for n in near:
        assert n in lengths
        assert len(range(0, n, every)) in lengths
