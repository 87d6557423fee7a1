"""A job with an autoencoder of diffusers, whose actor is killed: its rows are those without Ray."""

from pathlib import Path

import pyarrow as pa
import pytest

from pipeline.dataset.metadata import read_dataset
from pipeline.operations.stats import stats
from pipeline.storage.store import Store
from tests.jobs.conftest import committed_rows, job, pack, sound_videos, tokenized
from tests.jobs.test_faults import kill
from tests.pipeline import tokenized as without_ray
from tests.pipeline.tokenizers.small_vaes import save


@pytest.mark.usefixtures("cluster")
def test_a_killed_actor_changes_no_row(tmp_path: Path) -> None:
    vae = save(tmp_path / "vae", "AutoencoderKLWan")
    wan = {"name": "wan", "model": "diffusers:AutoencoderKLWan", "weights": vae, "logvar": True}
    tars = pack(tmp_path / "tars", sound_videos()[:4], per_tar=1)
    config = job(
        tars, tmp_path / "out", tokenizers=[{**wan, "batch": 4}], tokenize__decode_back_one_in=1
    )
    tokenized(config, lambda: kill("TokenizeWorker"))
    rows = committed_rows(tmp_path / "out")
    assert rows.num_rows > 8

    other = config.model_copy(
        update={"output": config.output.model_copy(update={"uri": str(tmp_path / "other")})}
    )
    calm = committed_rows(without_ray.tokenized(other))
    assert rows.equals(calm)
    assert pa.compute.all(pa.compute.equal(pa.compute.binary_length(rows["wan"]), 320)).as_py()

    again = tokenized(config)
    assert (again.committed_before, again.done.units) == (4, 0)
    store = Store(str(tmp_path / "out"))
    assert len(read_dataset(store).probes["wan"]) == 64
    assert any("wan" in line for line in stats(store).lines())
