"""What a job says of its tokens' quality is what its rows and sources say afterwards."""

from collections import Counter
from pathlib import Path

import pyarrow as pa

from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.metadata import read_dataset
from pipeline.dataset.totals import read_statistics
from pipeline.operations.verify.verify import verify
from pipeline.records import to_json
from pipeline.storage.store import Store
from pipeline.tokenizers.arithmetic import job_arithmetic
from tests.jobs.conftest import committed_rows, job, tokenized


def test_the_quality_is_that_of_rows_and_sources(
    undisturbed: tuple[list[str], pa.Table], tmp_path: Path
) -> None:
    tars, _ = undisturbed
    out, again = Store(str(tmp_path / "out")), Store(str(tmp_path / "again"))
    summary = tokenized(job(tars[:2], out.uri, tokenize__decode_back_one_in=1))
    assert [line[:10] for line in summary.lines()].count("psnr      ") == 2
    psnr = read_statistics(out).total.psnr
    with job_arithmetic(1):
        found = verify(out, decode=10**6)
    assert found.findings == []
    assert psnr.keys() == found.psnr.keys() == {"fsq", "kl"}
    for name, sums in psnr.items():
        values = [round(1000 * value) for value in found.psnr[name]]
        assert len(values) == sums.clips == committed_rows(out).num_rows
        assert sums.failed == 0
        assert sums.millidecibels == sum(values)
        assert sums.counts == Counter(value // 1000 for value in values)
        assert [value for value, _ in sums.worst] == sorted(values)[:3]

    # Other batches, actors and order, and others that draw: the same unit says the same again.
    specs = job(tars, again.uri).model_dump()["tokenizers"]
    config = job(
        tars[:2][::-1],
        again.uri,
        tokenizers=[{**spec, "batch": 3} for spec in specs],
        tokenize__decode_back_one_in=1,
        tokenize__actors=2,
    )
    tokenized(config)
    for one, other in zip(_units(out), _units(again), strict=True):
        assert one == other
    first = read_dataset(Store(str(Path(tars[0]).parents[1] / "out")))
    assert read_dataset(out).fingerprint == first.fingerprint
    assert read_statistics(Store(str(Path(tars[0]).parents[1] / "out"))).total.psnr == {}


def _units(store: Store) -> list[tuple[str, list[bytes]]]:
    """Return the units by name, with the bytes of their statistics by bucket."""
    return sorted(
        (unit.unit, [to_json(bucket) for bucket in (unit.statistics or {}).values()])
        for unit in read_manifest(store).units()
    )
