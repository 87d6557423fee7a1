"""Status says what became of every sample, with reasons and examples."""

from dataclasses import replace

from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.tally import Tally, dropped_by
from pipeline.operations.status import status
from pipeline.quarantine import FILTERED, REASONS
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import commit, sound, write_log
from tests.pipeline.units import deliver


def test_why_samples_are_filtered_and_quarantined(local: Store) -> None:
    sound(local)
    found = status(local)
    assert found.exit_code == 0
    lines = found.lines()
    assert "samples    18 read = 12 with clips + 3 filtered + 3 quarantined" in lines
    assert "source     10.5 s kept of 14.2 s decoded (73.7%)" in lines
    start = lines.index(f"filtered       3 too_short: {FILTERED['too_short']}")
    detail = "frames: 2 in 0.25 s; a clip of the shortest bucket has 5"
    assert lines[start + 1 : start + 4] == [
        f"                 u-{n}/short0: {detail}" for n in range(3)
    ]
    assert f"quarantine     3 corrupt: {REASONS['corrupt']}" in lines
    assert "                 u-1/k0/1: made by a test" in lines
    assert f"dropped        3 {dropped_by('tail')}" in lines
    assert "dropped        3 clips by too_short: one for each such sample" in lines
    values = found.to_dict()
    assert values["filtered"] == {"too_short": 3}
    assert values["reasons"] == {"corrupt": 3, "non_finite": 3}
    assert values["examples"]["too_short"][0] == {"name": "u-0/short0", "detail": detail}
    assert (values["seconds_kept"], values["seconds_decoded"]) == (10.5, 14.25)
    assert values["samples_read"] == (
        values["samples_with_clips"]
        + values["filtered"]["too_short"]
        + values["reasons"]["corrupt"]
    )


def test_few_tables_are_read_for_examples(local: Store) -> None:
    units = [deliver(f"u-{n}", unreadable=2, filtered=2) for n in range(5)]
    write_log(local, [commit(local, unit) for unit in units])
    tally = Tally.of(read_manifest(local))
    assert {reason: len(paths) for reason, paths in tally.tables.items()} == {
        "corrupt": 3,
        "too_short": 3,
    }
    assert [len(found) for found in status(local).examples.values()] == [3, 3]


def test_counts_without_their_table_are_still_told(local: Store) -> None:
    record = commit(local, deliver("u"))
    write_log(local, [record])
    assert record.quarantine is not None
    local.delete(record.quarantine.path)
    lines = status(local).lines()
    assert any("1 too_short" in line for line in lines)
    assert any(record.quarantine.path in line and "verify" in line for line in lines)


def test_a_sample_without_its_reason_is_an_imbalance(local: Store) -> None:
    record = commit(local, deliver("u"))
    wrong = replace(record, reasons={"corrupt": 1, "no_video": 1})
    write_log(local, [wrong])
    found = status(local)
    assert found.exit_code == 1
    assert "IMBALANCE  u: 1 samples filtered, 0 with a reason" in found.lines()


def test_no_word_is_a_reason_of_both_lists() -> None:
    assert not REASONS.keys() & FILTERED.keys()
