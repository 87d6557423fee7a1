"""What a job says of its tokens' quality is what its rows and sources say afterwards."""

from collections import Counter

import pyarrow as pa

from pipeline.dataset.log.manifest import read_manifest
from pipeline.dataset.tally import Tally
from pipeline.operations.verify.verify import verify
from pipeline.tokenizers.arithmetic import job_arithmetic
from tests.jobs.conftest import output_of


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
