"""What a dataset holds, from its log alone: also while a job runs, and after it died."""

from typing import Any

from pipeline.dataset import read_dataset
from pipeline.manifest import read_manifest
from pipeline.storage import Store
from pipeline.summary import Tally, tally_dict, tally_lines


def status(store: Store) -> dict[str, Any]:
    """Return what is committed, as plain values.

    Raises:
        ConfigError: there is no dataset.
        StoreError: the log is damaged.
    """
    dataset = read_dataset(store)
    manifest = read_manifest(store)
    tally = Tally.of(manifest)
    return {
        "output": store.uri,
        "fingerprint": dataset.fingerprint,
        "log_number": manifest.number,
        "tokenizers": {column.name: column.model for column in dataset.tokenizers},
        "problems": tally.problems,
        **tally_dict(tally),
    }


def status_lines(store: Store) -> list[str]:
    """Return the same for a person.

    Raises:
        ConfigError: there is no dataset.
        StoreError: the log is damaged.
    """
    dataset = read_dataset(store)
    manifest = read_manifest(store)
    tally = Tally.of(manifest)
    columns = ", ".join(f"{column.name} ({column.model})" for column in dataset.tokenizers)
    return [
        f"dataset    {store.uri}",
        f"columns    {columns}",
        f"units      {tally.units} committed · log at record {manifest.number}",
        f"made by    fingerprint {dataset.fingerprint}",
        *tally_lines(tally),
        *(f"IMBALANCE  {problem}" for problem in tally.problems),
    ]
