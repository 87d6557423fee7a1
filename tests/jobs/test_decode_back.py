"""What a job says of its tokens' quality is what its rows and sources say afterwards."""

from collections import Counter
from pathlib import Path

import pyarrow as pa

from pipeline.dataset.manifest import read_manifest
from pipeline.dataset.tally import Tally
from pipeline.operations.verify.verify import verify
from pipeline.records import to_json
from pipeline.storage.store import Store
from pipeline.tokenizers.arithmetic import job_arithmetic
from tests.jobs.conftest import committed_rows, job, output_of, tokenized


def test_other_batches_actors_and_order_give_the_same_bits_and_quality(
    undisturbed: tuple[list[str], pa.Table], tmp_path: Path
) -> None:
    tars, rows = undisturbed
    config = job(
        tars[::-1],
        tmp_path / "out",
        decode__actors=2,
        tokenize__actors=2,
        tokenize__decode_back_one_in=1,
    )
    specs = [
        spec.model_copy(update={"batch": batch})
        for spec, batch in zip(config.tokenizers, (3, 7), strict=True)
    ]
    summary = tokenized(config.model_copy(update={"tokenizers": specs}))
    assert [line[:10] for line in summary.lines()].count("psnr      ") == 2
    assert committed_rows(tmp_path / "out").equals(rows)
    for one, other in zip(
        _units(Store(str(tmp_path / "out"))), _units(output_of(tars)), strict=True
    ):
        assert one == other


def test_the_quality_is_that_of_rows_and_sources(
    undisturbed: tuple[list[str], pa.Table],
) -> None:
    tars, rows = undisturbed
    out = output_of(tars)
    psnr = Tally.of(read_manifest(out)).total.psnr
    with job_arithmetic(1):
        found = verify(out, decode=10**6)
    assert found.findings == []
    assert psnr.keys() == found.psnr_db.keys() == {"fsq", "kl"}
    for name, sums in psnr.items():
        values = [round(1000 * value) for value in found.psnr_db[name]]
        assert len(values) == sums.clips == rows.num_rows
        assert sums.failed == 0
        assert sums.millidecibels == sum(values)
        assert sums.counts == Counter(value // 1000 for value in values)
        assert [value for value, _ in sums.worst] == sorted(values)[:3]


def _units(store: Store) -> list[tuple[str, list[bytes]]]:
    """Return the units by name, with the bytes of their statistics by bucket."""
    return sorted(
        (unit.unit, [to_json(bucket) for bucket in unit.statistics.values()])
        for unit in read_manifest(store).units()
    )
