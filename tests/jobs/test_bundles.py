"""Small units share tasks: what kills one of them takes none of the others along."""

from pathlib import Path

import pytest
from PIL import Image

from pipeline.job.driver import run
from tests.jobs import saboteurs
from tests.jobs.conftest import JOB, Silence, committed_rows, job
from tests.pipeline.tokenized import tokenized


def test_a_unit_that_kills_its_actor_is_retried_alone_with_those_of_its_bundle(
    marks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decode actor dies three times in the middle of a bundle, and a tokenizer in a packed row.

    The rows are those of units that were done one after another.
    """
    for color in ("red", "green", "blue", "white"):
        Image.new("RGB", (16, 16), color).save(tmp_path / f"{color}.png")
    names = ["red.png", "green.png", "blue.png", "white.png"] * 8
    (tmp_path / "list.csv").write_text("\n".join(["video", *names]))
    shape = {"frames": 1, "height": 16, "width": 16}
    fsq = JOB["tokenizers"][:1]
    source = str(tmp_path / "list.csv")
    config, plain = (
        job(source, tmp_path / name, clip=shape, tokenizers=fsq, source__lists={"rows_per_unit": 1})
        for name in ("out", "plain")
    )
    monkeypatch.setattr("pipeline.job.graph.DecodeWorker", saboteurs.DiesInABundle)
    monkeypatch.setattr("pipeline.job.graph.TokenizeWorker", saboteurs.DiesInAPackedRow)
    progress = Silence()
    summary = run(config, progress)
    assert (summary.exit_code, summary.total.units) == (0, 32)
    assert sum("1 of 3 failed: not all of its rows arrived" in line for line in progress.said) == 2
    assert summary.retried == 2
    assert len(list(marks.glob("lost-*"))) == 1
    assert len(list(marks.glob("alone-*"))) == 1
    assert committed_rows(tmp_path / "out").equals(committed_rows(tokenized(plain)))
