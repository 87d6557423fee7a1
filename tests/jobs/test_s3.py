"""A job from S3 to S3, with credentials that must appear nowhere."""

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipeline.errors import ConfigError, PipelineError
from pipeline.job.driver import run
from pipeline.storage.store import Store
from tests.jobs.conftest import Silence, committed_rows, content, job
from tests.pipeline.s3 import S3Server
from tests.pipeline.tars import make_tar

SECRETS = ("AKIAHUSHHUSHHUSH", "wJalrXUtnFEMI+hush/hush", "hush-session-token")

pytestmark = pytest.mark.s3


def test_source_and_output_on_a_store_without_conditional_writes(
    undisturbed: tuple[list[str], pa.Table], s3: S3Server, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two drivers on a store with conditional writes are in `test_job`."""
    tars, rows = undisturbed
    options = {
        **s3.storage_options,
        **dict(zip(("key", "secret", "token"), SECRETS, strict=True)),
    }
    source, output = Store(f"{s3.bucket()}/tars", options), Store(f"{s3.bucket()}/out", options)
    for tar in tars[:2]:
        source.write(Path(tar).name, Path(tar).read_bytes())
    source.write("shard-002.tar", make_tar([("bad.mp4", b"not a video")]))
    config = job(
        f"{source.uri}/shard-{{000..002}}.tar",
        output.uri,
        source__storage_options=options,
        output__storage_options=options,
    )
    alone = config.model_copy(update={"output": config.output.model_copy(update={"alone": True})})
    progress = Silence()
    with s3.faults.times("ignore_condition", 10**6):
        with pytest.raises(ConfigError, match=r"output\.alone=true"):
            run(config, Silence())
        assert output.list() == [], "no work was done"
        summary = run(alone, progress)
        assert summary.exit_code == 0
        assert run(alone, Silence()).nothing_to_do
    wanted = rows.filter(pc.is_in(rows["unit"], _units_of(rows, tars[:2])))
    mine = committed_rows(output)
    assert mine.num_rows > 0
    assert content(mine).equals(content(wanted))

    said = [*progress.said, *summary.lines(), repr(summary)]
    gone = alone.model_copy(
        update={"output": alone.output.model_copy(update={"uri": "s3://no-such-bucket/out"})}
    )
    with pytest.raises(PipelineError) as caught:
        run(gone, Silence())
    said += [str(caught.value), repr(caught.value), *capfd.readouterr()]
    written = {path: output.read(path) for path in output.list()}
    folders = {path.partition("/")[0] for path in written}
    assert folders >= {"data", "quarantine", "log", "manifest", "README.md", "reports"}
    for path in written:
        if path.endswith(".parquet"):
            with output.open(path) as file:
                table = pq.read_table(file)
            said += [str(table.to_pylist()), str(table.schema.metadata)]
    for secret in SECRETS:
        assert not any(secret in text for text in said)
        assert not any(secret.encode() in data for data in written.values())


def _units_of(rows: pa.Table, tars: list[str]) -> pa.Array:
    stems = tuple(Path(tar).stem for tar in tars)
    return pa.array(sorted({u for u in rows["unit"].to_pylist() if u.startswith(stems)}))
