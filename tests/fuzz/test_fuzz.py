"""Some mutants of real videos, of tars and of datasets; the command makes as many as one likes."""

from pathlib import Path

from tests.fuzz.__main__ import VIDEOS, good_sample, originals, small_tars
from tests.fuzz.datasets import fuzz_datasets
from tests.fuzz.decoding import fuzz
from tests.fuzz.mutations import MUTATIONS, mutate
from tests.fuzz.tars import fuzz_tars


def test_a_seed_is_a_mutant() -> None:
    files = originals([VIDEOS])
    mutants = {mutate(files, seed) for seed in range(100)}
    assert len(mutants) > 95
    assert mutants == {mutate(files, seed) for seed in range(100)}
    assert len(mutants.intersection(files)) < 10, "most are changed"
    assert len(MUTATIONS) == 11


def test_mutated_videos_end_as_clips_or_with_a_reason() -> None:
    [*_, tally] = fuzz(originals([VIDEOS]), range(250), good_sample())
    assert tally.violations == []
    assert tally.outcomes.total() == 250
    assert len(tally.outcomes) >= 6, "mutants that all fail alike prove little"
    assert tally.clips > 50


def test_mutated_tars_give_samples_and_reasons(tmp_path: Path) -> None:
    outcomes, violations = fuzz_tars(small_tars(), range(250), tmp_path)
    assert violations == []
    assert outcomes["sample"] > 100
    assert outcomes["tar_truncated"] > 10
    assert outcomes["tar_unreadable"] > 10
    assert outcomes["tar_past_limit"] > 5


def test_damaged_datasets_give_their_rows_or_one_error(tmp_path: Path) -> None:
    outcomes, violations = fuzz_datasets(range(150), tmp_path)
    assert violations == []
    assert outcomes["data: refused"] > 10
    assert outcomes["manifest: right rows"] > 10
    assert outcomes["log: refused"] > 2
    assert outcomes["dataset.json: refused"] > 10
