"""A sibling made on Ray: every unit of the parent, and the same rows after a run was killed."""

from pathlib import Path

import yaml

from pipeline.commands import main
from pipeline.config.embed import ReadConfig
from pipeline.config.job import ModelActors
from pipeline.job.driver import run
from pipeline.operations.verify.verify import verify
from pipeline.storage.store import Store
from tests.jobs.conftest import Silence, committed_rows
from tests.pipeline.embedded import embed_config, embedded
from tests.pipeline.made_datasets import sound
from tests.pipeline.text_models import save_text_model


def test_a_run_that_was_interrupted_is_continued_on_ray(tmp_path: Path, cluster: str) -> None:
    parent = Store(str(tmp_path / "tokens"))
    sound(parent)
    weights = save_text_model(tmp_path / "umt5")
    whole, _ = embedded(embed_config(parent.uri, weights, str(tmp_path / "whole")))
    config = embed_config(parent.uri, weights, str(tmp_path / "text"))
    store, _ = embedded(config, units=1)  # and then the driver was killed
    one = {"decode": ReadConfig(actors=1), "tokenize": ModelActors(actors=1)}
    summary = run(config.model_copy(update=one), Silence())
    assert summary.exit_code == 0
    assert (summary.committed_before, summary.done.units) == (1, 2)
    ours, wanted = (committed_rows(each).sort_by("clip_id") for each in (store, whole))
    assert ours.equals(wanted)
    assert not verify(store).findings
    # The settings that the run wrote can be run again, and find nothing to do.
    path = tmp_path / "text/reports" / summary.run / "config.yaml"
    assert yaml.safe_load(path.read_text())["from"]["version"] == 3
    assert main(["embed", str(path)]) == 0
