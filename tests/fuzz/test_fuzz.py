"""Some mutants of videos, tars, lists and datasets; the command makes as many as one likes."""

from pathlib import Path

from tests.fuzz.__main__ import VIDEOS, good_sample, originals, small_tars
from tests.fuzz.datasets import fuzz_datasets
from tests.fuzz.decoding import fuzz
from tests.fuzz.lists import fuzz_lists, lists
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
    [*_, tally] = fuzz(originals([VIDEOS]), range(100), good_sample())
    assert tally.violations == []
    assert tally.outcomes.total() == 100
    assert len(tally.outcomes) >= 6, "mutants that all fail alike prove little"
    assert tally.clips > 20


def test_mutated_tars_give_samples_and_reasons(tmp_path: Path) -> None:
    outcomes, violations = fuzz_tars(small_tars(), range(100), tmp_path)
    assert violations == []
    assert outcomes["sample"] > 40
    assert outcomes["tar_truncated"] > 3
    assert outcomes["tar_unreadable"] > 3
    assert outcomes["tar_past_limit"] > 1


def test_mutated_lists_give_samples_reasons_and_clear_lines(tmp_path: Path) -> None:
    outcomes, violations = fuzz_lists(lists(b"video" * 600), range(160), tmp_path)
    assert violations == []
    assert outcomes["sample"] > 400
    assert outcomes["ConfigError"] > 20
    assert outcomes["list_unreadable"] > 5
    assert outcomes["bad_row"] > 20


def test_damaged_datasets_give_their_rows_or_one_error(tmp_path: Path) -> None:
    outcomes, violations = fuzz_datasets(range(100), tmp_path)
    assert violations == []
    assert outcomes["data: refused"] > 3
    assert outcomes["manifest: right rows"] > 3
    assert outcomes["log: refused"] > 0
    assert outcomes["dataset.json: refused"] > 3
