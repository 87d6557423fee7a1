"""Mutated tars through the real reader: every sample is an outcome, and nothing else comes out."""

import io
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipeline.records import REASONS, Sample, WorkUnit
from pipeline.samples import read_samples
from tests.fuzz.mutations import mutate


def make_tar(members: Sequence[tuple[str, bytes]]) -> bytes:
    """Return an uncompressed tar."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def fuzz_tars(
    originals: Sequence[bytes], seeds: Iterable[int], folder: Path
) -> tuple[Counter[str], list[str]]:
    """Read mutants to their ends; return the outcomes of all samples, and what must not happen."""
    outcomes: Counter[str] = Counter()
    violations: list[str] = []
    path = folder / "mutant.tar"
    unit = WorkUnit(unit="mutant-0123456789ab", tar_uri=str(path))
    for seed in seeds:
        path.write_bytes(mutate(originals, seed))
        keys: Counter[str] = Counter()
        try:
            for sample in read_samples(unit, max_video_mb=1):
                if isinstance(sample, Sample):
                    outcomes["sample"] += 1
                    keys[sample.key] += 1
                else:
                    outcomes[sample.reason] += 1
                    assert sample.reason in REASONS
        except Exception as error:
            violations.append(f"seed {seed}: {type(error).__name__}: {error}")
        if keys and max(keys.values()) > 1:
            violations.append(f"seed {seed}: a key came twice")
        if [one.name for one in folder.iterdir()] != [path.name]:
            violations.append(f"seed {seed}: a file appeared")
    return outcomes, violations
