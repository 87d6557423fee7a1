"""No verb prints a control character or a mark of direction that a name or a message holds."""

import json
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from pipeline.commands import app
from pipeline.dataset.records import UnitRecord
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import commit, with_column, with_rows, write_log
from tests.pipeline.tars import make_tar
from tests.pipeline.units import deliver

HOSTILE = "x\x1b[2J\x9b\u202e\u2066\u2028日"
SHOWN = r"x\x1b[2J\x9b\u202e\u2066\u2028日"


def hostile_record(store: Store) -> UnitRecord:
    """Return a unit whose keys, details and captions hold such characters."""
    delivery = deliver("u")
    records = [replace(q, key=HOSTILE, detail=HOSTILE) for q in delivery.closing.quarantined]
    delivery.closing = replace(delivery.closing, quarantined=tuple(records))
    record = commit(store, delivery)
    rows = record.parts[0].rows
    return with_rows(store, record, lambda t: with_column(t, "caption", [HOSTILE] * rows))


@pytest.fixture
def corpus(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / f"out{HOSTILE}"))
    write_log(store, [hostile_record(store)])
    store.write(f"data/5x16x16/{HOSTILE}-0-0123456789abcdef.parquet", b"left")
    return store


def printed(*arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    text = done.stdout + done.stderr
    bad = {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")} - {"\n"}
    assert not bad, arguments
    return text


@pytest.mark.parametrize(
    "verb",
    [
        ["status"],
        ["stats"],
        ["report"],
        ["diff", "OTHER"],
        ["verify"],
        ["retry", "--reason", "non_finite"],
        ["compact"],
        ["vacuum", "--older-than-hours", "0"],
        ["show", "--clip", "u/k0/0"],
        ["show", "--clip", "none\x1b[2J"],
    ],
)
def test_verbs_on_a_dataset(corpus: Store, tmp_path: Path, verb: list[str]) -> None:
    other = Store(str(tmp_path / f"other{HOSTILE}"))
    write_log(other, [commit(other, deliver("u", unreadable=0))])
    name, *rest = (other.uri if word == "OTHER" else word for word in verb)
    assert SHOWN in printed(name, corpus.uri, *rest)
    as_json = CliRunner().invoke(app, [name, corpus.uri, *rest, "--json"])
    if not as_json.stderr:
        assert not any(unicodedata.category(c) == "Cf" for c in as_json.stdout)
        found = json.loads(as_json.stdout)
        assert found.get("output", corpus.uri) == corpus.uri, "JSON keeps every character"


def test_the_page(corpus: Store, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    printed("report", corpus.uri, "--html", str(path))
    text = path.read_text()
    assert {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Zl", "Zp")} <= {"\n"}
    assert f"<title>{tmp_path}/out{SHOWN}</title>" in text
    assert f"u/{SHOWN}" in text


def test_errors_and_plan(tmp_path: Path) -> None:
    for verb in ("status", "stats", "report", "verify", "compact", "vacuum"):
        assert SHOWN in printed(verb, str(tmp_path / HOSTILE))
    for verb in ("tokenize", "plan", "train", "evaluate"):
        assert SHOWN in printed(verb, str(tmp_path / HOSTILE))
    tar = tmp_path / "a.tar"
    tar.write_bytes(make_tar([(f"{HOSTILE}.txt", b"no video")]))
    config = {
        "source": {"uri": [str(tar)]},
        "clip": {"frames": 5, "height": 32, "width": 40, "fps": 4.0},
        "tokenizers": [{"name": "fsq", "model": "vidtok_fsq_causal_488_262144_tiny"}],
        "output": {"uri": str(tmp_path / "out")},
    }
    job = tmp_path / "job.yaml"
    job.write_text(yaml.safe_dump(config))
    assert f"/{SHOWN}: read: no_video" in printed("plan", str(job), "--seconds", "0")
