"""Mutated tars through the real reader: every sample is an outcome, and nothing else comes out."""

import io
import resource
import signal
import tarfile
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Never

from pipeline.config.source import VideoSource
from pipeline.quarantine import REASONS
from pipeline.records import Sample, WorkUnit
from pipeline.sources.reader import SampleReader
from tests.fuzz.mutations import mutate
from tests.fuzz.tar_mutations import TAR_MUTATIONS

_TIMEOUT_S = 20
"""For a tar of some megabytes that a busy machine reads."""
_MEMORY_MB = 256
"""More than all that one mutant makes may take, above what the first ones took."""


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
    source = VideoSource(uri=[str(path)], max_video_mb=1)
    handler = signal.signal(signal.SIGALRM, _too_slow)
    for seed in seeds:
        path.write_bytes(mutate(originals, seed, TAR_MUTATIONS))
        keys: Counter[str] = Counter()
        before = _peak_mb()
        signal.alarm(_TIMEOUT_S)
        try:
            for sample in SampleReader(source, images=seed % 2 == 1).read(unit):
                if isinstance(sample, Sample):
                    outcomes["sample"] += 1
                    keys[sample.key] += 1
                else:
                    outcomes[sample.reason] += 1
                    assert sample.reason in REASONS
        except Exception as error:
            violations.append(f"seed {seed}: {type(error).__name__}: {error}")
        finally:
            signal.alarm(0)
        if _peak_mb() - before > _MEMORY_MB:
            violations.append(f"seed {seed}: took {_peak_mb() - before} MiB")
        if keys and max(keys.values()) > 1:
            violations.append(f"seed {seed}: a key came twice")
        if [one.name for one in folder.iterdir()] != [path.name]:
            violations.append(f"seed {seed}: a file appeared")
    signal.signal(signal.SIGALRM, handler)
    return outcomes, violations


def _too_slow(*_: object) -> Never:
    raise TimeoutError(f"not read within {_TIMEOUT_S} s")


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
