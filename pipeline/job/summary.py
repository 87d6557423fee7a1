"""What a run did, and whether plan, log and parts agree: the end of a job and its exit code."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf

from pipeline.config.job import JobConfig
from pipeline.dataset.tally import Tally, tally_dict, tally_lines
from pipeline.errors import BALANCED, UNBALANCED
from pipeline.formatting import format_bytes, format_duration
from pipeline.storage.store import Store

BUDGET_AFTER_SAMPLES: Final = 100
"""Before so many samples a rate says nothing."""


def over_budget(tally: Tally, max_rate: float) -> str | None:
    """Return why a run should stop, if more of its samples are quarantined than it may have."""
    read, lost = tally.counts.samples_read, tally.counts.samples_quarantined
    if read < BUDGET_AFTER_SAMPLES or lost <= max_rate * read:
        return None
    reasons = ", ".join(f"{count} {reason}" for reason, count in tally.reasons.most_common(3))
    return (
        f"{lost} of {read} samples are quarantined, more than max_quarantine_rate = {max_rate:g};"
        f" most of all: {reasons}; see quarantine/ in the output"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The outcome of one run."""

    output: str
    run: str
    planned: int
    """Units of this driver's plan."""
    committed_before: int
    """Of these, those that the log covered when the run began."""
    done: Tally
    """Committed by this run."""
    lost_race: int
    """Units that this run did, too, but another driver committed first."""
    failed: Mapping[str, str]
    """Unit → why it is not committed."""
    total: Tally
    """All that the dataset holds now."""
    seconds: float
    tokenizers_waited: float | None = None
    """Share of their time that tokenizer actors waited for clips; None if none was tokenized."""
    put_back: int = 0
    """Times that a unit failed in a pass and went into another, or was given up."""
    untrained: Sequence[str] = ()
    """Tokenizers that ran on a seeded initialisation."""

    @property
    def exit_code(self) -> int:
        """0 when every planned unit is committed and every sample and clip accounted for."""
        return UNBALANCED if self.failed or self.total.problems else BALANCED

    @property
    def nothing_to_do(self) -> bool:
        """Whether the log covered the whole plan before the run began."""
        return self.committed_before == self.planned

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for `summary.json`."""
        return {
            "output": self.output,
            "run": self.run,
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 3),
            "units": {
                "planned": self.planned,
                "committed_before": self.committed_before,
                "done": self.done.units,
                "lost_race": self.lost_race,
                "put_back": self.put_back,
                "failed": dict(self.failed),
            },
            "this_run": tally_dict(self.done),
            "dataset": tally_dict(self.total),
            "tokenizers_waited": self.tokenizers_waited and round(self.tokenizers_waited, 4),
            "untrained": list(self.untrained),
        }

    def lines(self) -> list[str]:
        """Return the summary as a person reads it."""
        if self.nothing_to_do:
            lines = [f"nothing to do: all {self.planned} units are committed in {self.output}"]
        else:
            done = f"{self.done.units} done in {format_duration(self.seconds)}"
            others = f"{self.committed_before} before · {len(self.failed)} failed"
            lines = [
                f"units      {self.planned} planned · {done} · {others}",
                *tally_lines(self.done),
                *_speed_lines(self.done, self.seconds),
            ]
            if self.tokenizers_waited is not None:
                share = f"{self.tokenizers_waited:.0%} of their time"
                lines.append(f"waiting    tokenizers waited {share} for decoded clips")
        if self.put_back:
            times = "once" if self.put_back == 1 else f"{self.put_back} times"
            lines.append(f"put back   {times} a unit did not come through a pass")
        if self.lost_race:
            lines.append(f"           {self.lost_race} more were committed by another driver first")
        for name in self.untrained if self.done.units else ():
            lines.append(f"untrained  {name}: seeded, not trained weights")
        lines += [f"failed     {unit}: {reason}" for unit, reason in sorted(self.failed.items())]
        lines += [f"IMBALANCE  {problem}" for problem in self.total.problems]
        verdict = "balanced" if self.exit_code == BALANCED else "NOT balanced"
        lines.append(
            f"dataset    {self.total.units} units · {self.total.counts.clips_written} clips"
            f" · {format_bytes(self.total.bytes)} · {verdict} · {self.output}"
        )
        again = "run the same command again to retry failed units; or: " if self.failed else ""
        lines.append(f"next       {again}{_python()} -m pipeline status {self.output}")
        return lines


def _python() -> str:
    """Return what to type for this interpreter: one below this folder by its path there."""
    interpreter, here = Path(sys.executable), Path.cwd()
    return str(interpreter.relative_to(here)) if interpreter.is_relative_to(here) else "python"


def _speed_lines(tally: Tally, seconds: float) -> list[str]:
    """Return clips per second: of the whole run by the clock, of each stage by its own work."""
    clips = tally.counts.clips_written
    if not clips or not seconds:
        return []
    stages = [
        f"{stage} {clips / worked:.1f}" for stage, worked in tally.timings.items() if worked > 0
    ]
    return [f"speed      {clips / seconds:.1f} clips/s; one process by stage: {' · '.join(stages)}"]


def write_config(store: Store, run: str, config: JobConfig) -> None:
    """Write the settings of a run as YAML that can be run again, credentials left out."""
    text = OmegaConf.to_yaml(OmegaConf.create(config.public()))
    store.write(f"reports/{run}/config.yaml", text.encode())


def write_summary(store: Store, summary: Summary) -> None:
    """Write the outcome of a run."""
    text = json.dumps(summary.to_dict(), indent=1, ensure_ascii=False)
    store.write(f"reports/{summary.run}/summary.json", text.encode())
