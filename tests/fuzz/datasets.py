"""A dataset with a damaged file: readers give the right rows, or one error that names the file."""

import random
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

import pipeline
from pipeline.dataset import CommitLog, Tally
from pipeline.errors import PipelineError
from pipeline.operations.verify.verify import verify
from pipeline.reading import TokenDataset
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import DATASET, sound

UNITS = 3
_COLUMNS = ["clip_id", "fsq", "kl", "kl_logvar", "caption", "start_s", "crop"]
_WORDS = (0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def fuzz_datasets(seeds: Iterable[int], folder: Path) -> tuple[Counter[str], list[str]]:
    """Damage a file of a dataset for each seed, read the dataset, and restore the file.

    Returns:
        Number of damages by folder and outcome, and what must not happen, with its seed.
    """
    store = Store(str(folder / "corpus"))
    sound(store, UNITS)
    right, tally = _rows(store), Tally.of(pipeline.open(store.uri).manifest)
    files = store.list()
    outcomes, violations = Counter[str](), []
    for seed in seeds:
        rng = random.Random(seed)
        # Most files are small ones of the log: each folder has an equal chance.
        kind = rng.choice(sorted({path.split("/")[0] for path in files}))
        path = rng.choice([each for each in files if each.split("/")[0] == kind])
        data = store.read(path)
        damaged = damage(data, rng)
        if damaged == data:
            continue
        Path(store.locate(path)).write_bytes(damaged)
        ends = []
        for act in (_rows, _tally, _log, _findings):
            try:
                ends.append((act.__name__, act(store)))
            except PipelineError as error:
                ends.append((act.__name__, "refused"))
                if path not in str(error):
                    violations.append(f"seed {seed}: {path}: {error}")
            except Exception as error:
                violations.append(f"seed {seed}: {path}: {act.__name__}: {error!r}")
        found = dict(ends)
        wanted = {"_rows": right, "_tally": tally, "_log": UNITS}
        for name, value in wanted.items():
            if found.get(name, "refused") not in ("refused", value):
                violations.append(f"seed {seed}: {path}: {name}: other values")
        # Parquet has bytes that say nothing, and a record's checksum may itself be damaged.
        if not found.get("_findings") and kind not in ("log", "manifest"):
            violations.append(f"seed {seed}: {path}: verify finds nothing")
        outcomes[f"{kind}: {'refused' if found.get('_rows') == 'refused' else 'right rows'}"] += 1
        Path(store.locate(path)).write_bytes(data)
    return outcomes, violations


def damage(data: bytes, rng: random.Random) -> bytes:
    """Return a file as a failing disk or network leaves it."""
    changed, at = bytearray(data), rng.randrange(len(data))
    match rng.randrange(7):
        case 0 | 1:
            changed[at] ^= 1 << rng.randrange(8)
        case 2:
            del changed[at:]
        case 3:
            size = min(rng.choice((16, 512, 4096)), len(data) - at)
            changed[at : at + size] = bytes(size)
        case 4:
            changed[at : at + 4] = struct.pack("<I", rng.choice(_WORDS))
        case 5:
            other = rng.randrange(len(data))
            changed[at : at + 64] = data[other : other + 64]
        case _:
            changed.insert(at, rng.randrange(256))
    return bytes(changed)


def _rows(store: Store) -> list[Any]:
    batches = TokenDataset(pipeline.open(store.uri), columns=_COLUMNS, batch=4, shuffle=False)
    found = []
    for batch in batches:
        columns = (batch[name] for name in _COLUMNS)
        lists = [each.tolist() if isinstance(each, Tensor) else each for each in columns]
        found += [repr(row) for row in zip(*lists, strict=True)]
    return sorted(found)


def _tally(store: Store) -> Tally:
    return Tally.of(pipeline.open(store.uri).manifest)


def _log(store: Store) -> int:
    return len(CommitLog(store, fingerprint=DATASET.fingerprint).committed.units)


def _findings(store: Store) -> list[str]:
    return [str(found) for found in verify(store).findings]
