"""What a run did, and whether plan, log and parts agree, which decides the exit code."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf

from pipeline.config.section import Section
from pipeline.dataset.examples import Examples
from pipeline.dataset.tally import Tally, tally_dict, tally_lines
from pipeline.errors import BALANCED, UNBALANCED
from pipeline.formatting import counted, format_bytes, format_duration, json_text, labelled
from pipeline.storage.store import Store

BUDGET_AFTER: Final = 100
"""Number of samples or clips below which the rate of quarantined ones is not checked."""


def over_budget(tally: Tally, max_rate: float) -> str | None:
    """Return why a run must stop if too many of its samples or clips are quarantined; else None."""
    counts = tally.counts
    for what, all_of_them, lost in (
        ("samples", counts.samples_read, counts.samples_quarantined),
        ("clips", counts.clips_seen, counts.clips_quarantined),
    ):
        if all_of_them >= BUDGET_AFTER and lost > max_rate * all_of_them:
            common = tally.reasons.most_common(3)
            return (
                f"{lost} of {all_of_them} {what} are quarantined, more than max_quarantine_rate ="
                f" {max_rate:g}; most common: {', '.join(f'{n} {reason}' for reason, n in common)};"
                " see quarantine/ in the output, and remove the cause or raise max_quarantine_rate"
            )
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The outcome of one run."""

    output: str
    run: str
    planned: int
    """Number of units of this driver's plan."""
    committed_before: int
    """Number of planned units that the log covered when the run began."""
    done: Tally
    """Sums over the units that this run committed."""
    lost_race: int
    """Number of units that this run also tokenized but another driver committed first."""
    failed: Mapping[str, str]
    """Unit → why it is not committed."""
    total: Tally
    """Sums over all units of the dataset."""
    seconds: float
    """Seconds that the run took."""
    tokenizers_waited: float | None = None
    """Share of the tokenizer actors' time in which they waited; None if nothing was tokenized."""
    examples: Examples = field(default_factory=dict)
    """Examples of each reason for which this run quarantined or filtered samples."""
    retried: int = 0
    """Number of unit attempts that failed and were retried."""
    untrained: Sequence[str] = ()
    """Names of the tokenizers that ran on a seeded initialisation."""
    troubles: Sequence[str] = ()
    """Lines about nodes that were at fault."""

    @property
    def exit_code(self) -> int:
        """Return 0 if every planned unit is committed and every sample and clip accounted for."""
        return UNBALANCED if self.failed or self.total.problems else BALANCED

    @property
    def nothing_to_do(self) -> bool:
        """Return whether the log covered the whole plan before this run could commit a unit."""
        return not self.done.units and not self.failed

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
                "retried": self.retried,
                "failed": dict(self.failed),
            },
            "this_run": tally_dict(self.done),
            "examples": {reason: [e._asdict() for e in of] for reason, of in self.examples.items()},
            "dataset": tally_dict(self.total),
            "tokenizers_waited": self.tokenizers_waited and round(self.tokenizers_waited, 4),
            "untrained": list(self.untrained),
            "troubles": list(self.troubles),
        }

    def lines(self) -> list[str]:
        """Return the summary as lines of text."""
        if self.nothing_to_do:
            all_units = counted(self.planned, "unit is", "units are")
            lines = [f"nothing to do: {all_units} committed in {self.output}"]
            if meanwhile := self.planned - self.committed_before:
                lines[0] += f", {meanwhile} of them by another driver during this run"
        else:
            done = f"{self.done.units} done in {format_duration(self.seconds)}"
            others = f"{self.committed_before} committed before · {len(self.failed)} failed"
            lines = [
                f"units      {self.planned} planned · {done} · {others}",
                *tally_lines(self.done, self.examples),
                *_speed_lines(self.done, self.seconds),
            ]
            if self.tokenizers_waited is not None:
                share = f"{self.tokenizers_waited:.0%} of their time"
                lines.append(f"waiting    tokenizers waited {share} for decoded clips")
        if self.retried:
            attempts = counted(self.retried, "unit attempt was", "unit attempts were")
            lines.append(f"retried    {attempts} retried after a failure")
        if self.lost_race:
            units = counted(self.lost_race, "unit")
            lines.append(f"duplicate  {units} of this run: another driver committed them first")
        for name in self.untrained if self.done.units else ():
            lines.append(f"untrained  {name}: seeded weights, not trained ones")
        lines += [f"trouble    {trouble}" for trouble in self.troubles]
        lines += [f"failed     {unit}: {reason}" for unit, reason in sorted(self.failed.items())]
        lines += [f"IMBALANCE  {problem}" for problem in self.total.problems]
        verdict = "balanced" if self.exit_code == BALANCED else "NOT balanced"
        lines.append(
            f"dataset    {counted(self.total.units, 'unit')}"
            f" · {counted(self.total.counts.clips_written, 'clip')}"
            f" · {format_bytes(self.total.bytes)} · {verdict} · {self.output}"
        )
        retry = "run the same command again to retry failed units; or: " if self.failed else ""
        lines.append(f"next       {retry}{_python()} -m pipeline status {self.output}")
        return lines


def _python() -> str:
    """Return the interpreter's relative path if it is below this folder, else `python`."""
    interpreter, here = Path(sys.executable), Path.cwd()
    return str(interpreter.relative_to(here)) if interpreter.is_relative_to(here) else "python"


def _speed_lines(tally: Tally, seconds: float) -> list[str]:
    """Return clips per second of the whole run, and of one process of each stage."""
    clips = tally.counts.clips_written
    if not clips or not seconds:
        return []
    stages = [
        labelled("", f"{clips / worked:.1f} clips/s in one process that does only: {stage}")
        for stage, worked in tally.timings.items()
        if worked > 0
    ]
    return [labelled("speed", f"{clips / seconds:.1f} clips/s written by the whole job"), *stages]


def config_path(run: str) -> str:
    """Return the path of the settings of a run in the output."""
    return f"reports/{run}/config.yaml"


def write_config(store: Store, run: str, config: Section) -> None:
    """Write the settings of a run, without credentials, as YAML that can be run again."""
    text = OmegaConf.to_yaml(OmegaConf.create(config.public()))
    store.write(config_path(run), text.encode())


def write_summary(store: Store, summary: Summary) -> None:
    """Write the outcome of a run, without examples: their keys could not be forgotten."""
    values = {name: value for name, value in summary.to_dict().items() if name != "examples"}
    store.write(f"reports/{summary.run}/summary.json", json_text(values).encode())
