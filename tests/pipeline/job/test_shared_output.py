from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ConfigError
from pipeline.job import shared_output
from pipeline.job.shared_output import missing_part, require_shared, sees_once
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import commit
from tests.pipeline.units import deliver


def test_an_output_that_one_node_does_not_see_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: dict[str, Any] = {"10.0.0.1": True, "10.0.0.2": False, "10.0.0.3": False}
    monkeypatch.setattr(shared_output, "ask_other_nodes", lambda *_: answers)
    with pytest.raises(ConfigError, match=r"all nodes: node 10.0.0.2, 10.0.0.3 does not see p, "):
        require_shared(Store(str(tmp_path)), "p")
    answers.update(dict.fromkeys(answers, True))
    require_shared(Store(str(tmp_path)), "p")


def test_a_process_looks_until_it_has_seen_the_proof(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert not sees_once(store, "proof")
    store.write("proof", b"x")
    assert sees_once(store, "proof")
    store.delete("proof")
    assert sees_once(store, "proof")


def test_a_part_that_is_missing_or_cut_is_not_recorded(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    record = commit(store, deliver("u", lost=[0]))
    assert record.quarantine is not None
    assert missing_part(store, record) is None
    for part in (*record.parts, record.quarantine):
        whole = store.read(part.path)
        store.write(part.path, whole[:-1])
        assert f"{len(whole)} bytes, but the driver sees {len(whole) - 1}" in str(
            missing_part(store, record)
        )
        store.delete(part.path)
        assert f"{part.path} was written, but" in str(missing_part(store, record))
        store.write(part.path, whole)
