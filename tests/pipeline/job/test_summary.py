"""A summary that says "balanced" has looked."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.dataset.examples import Example
from pipeline.dataset.records import Counts, Part, UnitRecord
from pipeline.dataset.statistics import BucketStatistics
from pipeline.dataset.tally import Tally
from pipeline.job.summary import Summary, over_budget
from pipeline.quarantine import FILTERED

PART = Part(path="data/5x8x8/x.parquet", bucket="5x8x8", rows=4, bytes=1500, sha256="0" * 64)
QUARANTINE = Part(path="quarantine/x.parquet", bucket="", rows=3, bytes=10, sha256="0" * 64)
UNIT = UnitRecord(
    unit="u",
    sources=("/u.tar",),
    parts=(PART,),
    quarantine=QUARANTINE,
    counts=Counts(
        samples_read=3,
        samples_with_clips=1,
        samples_filtered=1,
        samples_quarantined=1,
        clips_seen=6,
        clips_written=4,
        clips_filtered=1,
        clips_quarantined=1,
        microseconds_decoded=3_000_000,
    ),
    reasons={"corrupt": 1, "no_video": 1, "too_short": 1},
    dropped={"too_short": 1},
    timings={"decode": 2.0, "tokenize fsq": 4.0},
    statistics={"5x8x8": BucketStatistics(clips=4, microseconds=2_000_000)},
)


def tally(*units: UnitRecord) -> Tally:
    made = Tally()
    for unit in units:
        made.add(unit)
    return made


def summary(done: Tally, **changes: object) -> Summary:
    values: dict[str, object] = {
        "output": "/out",
        "run": "r",
        "planned": 2,
        "committed_before": 0,
        "done": done,
        "lost_race": 0,
        "failed": {},
        "total": done,
        "seconds": 8.0,
    }
    return Summary(**{**values, **changes})  # type: ignore[arg-type]


def test_the_next_command_is_one_that_works_from_here(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv/bin/python"))
    assert summary(tally(UNIT)).lines()[-1].endswith(" .venv/bin/python -m pipeline status /out")


def test_sums_and_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/elsewhere/bin/python")
    done = tally(UNIT, replace(UNIT, unit="v"))
    examples = {"too_short": [Example("u/a.mp4", "frames: 2")], "corrupt": [Example("", "gone")]}
    made = summary(done, examples=examples)
    assert made.exit_code == 0
    assert made.to_dict()["this_run"]["filtered"] == {"too_short": 2}
    assert made.to_dict()["examples"]["too_short"] == [{"name": "u/a.mp4", "detail": "frames: 2"}]
    assert made.lines() == [
        "units      2 planned · 2 done in 8.0 s · 0 committed before · 0 failed",
        "samples    6 read = 2 with clips + 2 filtered + 2 quarantined",
        "clips      12 seen = 8 written + 2 filtered + 2 quarantined",
        "source     4.0 s kept of 6.0 s decoded (66.7%)",
        "bytes      3.0 kB in parts",
        f"filtered       2 too_short: {FILTERED['too_short']}",
        "                 u/a.mp4: frames: 2",
        "quarantine     2 corrupt: the decoder reported damaged data",
        "                 gone",
        "quarantine     2 no_video: the sample has no video",
        "dropped        2 clips by too_short: one for each such sample",
        "speed      1.0 clips/s written by the whole job",
        "           2.0 clips/s in one process that does only: decode",
        "           1.0 clips/s in one process that does only: tokenize fsq",
        "dataset    2 units · 8 clips · 3.0 kB · balanced · /out",
        "next       python -m pipeline status /out",
    ]


def test_retries_are_told() -> None:
    assert not any("retried" in line for line in summary(tally(UNIT)).lines())
    made = summary(tally(UNIT), retried=3)
    assert "retried    3 unit attempts were retried after a failure" in made.lines()
    assert made.to_dict()["units"]["retried"] == 3


def test_the_share_that_tokenizers_waited_is_told_where_it_is_known() -> None:
    made = summary(tally(UNIT), tokenizers_waited=0.426)
    assert "waiting    tokenizers waited 43% of their time for decoded clips" in made.lines()
    assert made.to_dict()["tokenizers_waited"] == 0.426
    assert summary(tally(UNIT)).to_dict()["tokenizers_waited"] is None


def test_whatever_does_not_add_up_is_named_and_fails_the_run() -> None:
    for wrong, text in (
        (replace(UNIT, counts=replace(UNIT.counts, samples_read=4)), "4 samples read, 3 accounted"),
        (replace(UNIT, counts=replace(UNIT.counts, clips_seen=7)), "7 clips seen, 6 accounted for"),
        (replace(UNIT, parts=(replace(PART, rows=5),)), "4 clips written, 5 rows in its parts"),
        (
            replace(UNIT, reasons={"corrupt": 3}),
            "1 samples filtered, 0 with a reason",
        ),
        (
            replace(UNIT, counts=replace(UNIT.counts, microseconds_decoded=1)),
            "2000000 µs of source kept, 1 decoded",
        ),
        (
            replace(UNIT, quarantine=None),
            "2 samples and clips quarantined, 1 samples filtered, 0 rows",
        ),
        (replace(UNIT, reasons={"corrupt": 1}), "3 rows in its quarantine, 1 reasons"),
    ):
        made = summary(tally(wrong))
        assert made.exit_code == 1
        assert any(text in line for line in made.lines())
        assert any("NOT balanced" in line for line in made.lines())


def test_a_failed_unit_fails_the_run_and_says_what_to_do() -> None:
    made = summary(tally(UNIT), failed={"v": "commit: no space left"})
    assert made.exit_code == 1
    assert "failed     v: commit: no space left" in made.lines()
    assert made.lines()[-1].startswith("next       run the same command again")


def test_the_error_budget_is_a_rate_and_waits_for_enough_samples() -> None:
    unit = replace(UNIT, counts=replace(UNIT.counts, clips_seen=5, clips_quarantined=0))
    few = tally(*[unit] * 33)
    assert few.counts.samples_read == 99
    assert over_budget(few, 0.0) is None
    enough = tally(*[unit] * 34)
    assert over_budget(enough, 1 / 3) is None
    assert over_budget(enough, 1.0) is None
    said = over_budget(enough, 0.3)
    assert said is not None
    assert said.startswith("34 of 102 samples are quarantined, more than max_quarantine_rate = 0.3")
    assert "34 corrupt, 34 no_video" in said
    assert "too_short" not in said


def test_the_error_budget_counts_clips_too() -> None:
    counts = replace(UNIT.counts, samples_quarantined=0, samples_with_clips=2, clips_quarantined=2)
    unit = replace(UNIT, counts=counts, reasons={"tokenizer_error": 2})
    assert over_budget(tally(*[unit] * 16), 0.3) is None, "96 clips"
    said = over_budget(tally(*[unit] * 17), 0.3)
    assert said is not None
    assert said.startswith("34 of 102 clips are quarantined, more than max_quarantine_rate = 0.3;")
    assert over_budget(tally(*[unit] * 17), 1 / 3) is None


def test_the_ends_of_videos_are_told_apart_from_filtered_samples() -> None:
    counts = replace(UNIT.counts, clips_seen=7, clips_filtered=2)
    dropped = {"tail": 1, "too_short": 1}
    lines = summary(tally(replace(UNIT, counts=counts, dropped=dropped))).lines()
    assert [line.split(maxsplit=1)[1] for line in lines if line.startswith("dropped")] == [
        "1 clips by tail: the end of a video is too short for another clip, see clip.short",
        "1 clips by too_short: one for each such sample",
    ]


def test_a_forgotten_sample_keeps_its_filtered_clip() -> None:
    counts = replace(UNIT.counts, samples_filtered=0, samples_forgotten=1)
    reasons = {"corrupt": 1, "no_video": 1}
    lines = summary(tally(replace(UNIT, counts=counts, reasons=reasons))).lines()
    assert (
        "dropped        1 clips by too_short: one for each such sample, also for those forgotten"
        in lines
    )


def test_clips_that_no_rule_accounts_for_are_an_imbalance() -> None:
    made = summary(tally(replace(UNIT, dropped={"too_short": 2})))
    assert made.total.problems == ["u: 1 clips filtered, 2 by rule"]


def test_nothing_to_do() -> None:
    made = summary(Tally(), committed_before=2, total=tally(UNIT, UNIT))
    assert made.lines()[0] == "nothing to do: 2 units are committed in /out"
    assert made.exit_code == 0
    one = summary(Tally(), planned=1, committed_before=1, total=tally(UNIT))
    assert one.lines()[0] == "nothing to do: 1 unit is committed in /out"
    assert one.lines()[1] == "dataset    1 unit · 4 clips · 1.5 kB · balanced · /out"


def test_a_driver_that_lost_every_race_says_so_in_one_line() -> None:
    made = summary(Tally(), committed_before=1, lost_race=1, total=tally(UNIT, UNIT))
    first, *rest = made.lines()
    assert first == (
        "nothing to do: 2 units are committed in /out, 1 of them by another driver during this run"
    )
    assert [line.split()[0] for line in rest] == ["duplicate", "dataset", "next"]
    failed = summary(Tally(), committed_before=1, failed={"v": "x"}, total=tally(UNIT))
    assert not failed.nothing_to_do
