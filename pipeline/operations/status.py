"""Contents of a dataset according to its log, also while a job runs."""

from dataclasses import dataclass, field
from typing import Any

from pipeline.dataset import Dataset, Manifest, Tally, read_dataset, read_manifest
from pipeline.dataset.examples import Examples, read_examples
from pipeline.dataset.tally import tally_dict, tally_lines
from pipeline.errors import BALANCED, UNBALANCED
from pipeline.formatting import counted, labelled
from pipeline.operations.outcome import Outcome
from pipeline.storage.store import Store


@dataclass(frozen=True, slots=True)
class Status(Outcome):
    """What is committed."""

    output: str
    dataset: Dataset
    manifest: Manifest
    tally: Tally
    examples: Examples = field(default_factory=dict)
    """Examples of each reason of the quarantine."""

    @property
    def exit_code(self) -> int:
        """Exit code: 0 when every sample and clip is accounted for, else 1."""
        return UNBALANCED if self.tally.problems else BALANCED

    def to_dict(self) -> dict[str, Any]:
        """Return the counts, without dataset.json and manifest."""
        return {
            "output": self.output,
            "fingerprint": self.dataset.fingerprint,
            "log_number": self.manifest.number,
            "tokenizers": {column.name: column.model for column in self.dataset.tokenizers},
            "units_reopened": sorted(self.manifest.reopened),
            "problems": self.tally.problems,
            **tally_dict(self.tally),
            "examples": {reason: [e._asdict() for e in of] for reason, of in self.examples.items()},
        }

    def lines(self) -> list[str]:
        """Return the lines to print."""
        reopened = len(self.manifest.reopened)
        columns = ", ".join(f"{c.name} ({c.model})" for c in self.dataset.tokenizers)
        units = f"{self.tally.units} committed · log at record {self.manifest.number}"
        return [
            labelled("dataset", self.output),
            labelled("columns", columns),
            labelled("units", units),
            labelled("made by", f"fingerprint {self.dataset.fingerprint}"),
            *[labelled("reopened", f"{counted(reopened, 'unit')}, for the next run")]
            * bool(reopened),
            *tally_lines(self.tally, self.examples),
            *(labelled("IMBALANCE", problem) for problem in self.tally.problems),
        ]


def status(store: Store) -> Status:
    """Return what is committed.

    Raises:
        ConfigError: there is no dataset.
        StoreError: the log is damaged.
    """
    dataset = read_dataset(store)
    manifest = read_manifest(store)
    tally = Tally.of(manifest)
    return Status(store.uri, dataset, manifest, tally, read_examples(store, tally))
