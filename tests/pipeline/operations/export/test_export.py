"""Export: what it refuses and counts, and that a killed one continues with the same files."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.commands import main
from pipeline.dataset.log.commit_log import CommitLog
from pipeline.dataset.metadata import open_dataset, read_dataset
from pipeline.dataset.records import Reopened
from pipeline.errors import ConfigError, DatasetMismatch, StoreError
from pipeline.operations.compact import compact
from pipeline.operations.export.export import FORMATS, Exported, export
from pipeline.storage.store import Store
from tests.pipeline.made_datasets import sound
from tests.pipeline.operations.export.worlds import (
    LTX2,
    TEXT,
    WAN,
    clips_of,
    files_of,
    text_head,
    write_latents,
    write_texts,
    write_unit,
)

UNITS = {"a": 3, "b": 4, "c": 2, "d": 5}


@pytest.fixture
def latents(tmp_path: Path) -> Store:
    store = Store(str(tmp_path / "latents"))
    write_latents(store, UNITS)
    return store


@pytest.fixture
def texts(tmp_path: Path, latents: Store) -> Store:
    store = Store(str(tmp_path / "texts"))
    write_texts(store, latents, UNITS)
    return store


class Killed(Exception):
    pass


@pytest.fixture
def kill(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The number of writes to an output before the process is killed; inf by default."""
    left = [float("inf")]

    def counted(method):  # type: ignore[no-untyped-def]
        def call(self, *args):  # type: ignore[no-untyped-def]
            if Path(self.uri).name.startswith("out"):
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
            return method(self, *args)

        return call

    for name in ("put_or_read", "stage"):  # on a local disk `write` stages a file
        monkeypatch.setattr(Store, name, counted(getattr(Store, name)))
    return left


@pytest.mark.parametrize("name", FORMATS)
def test_a_killed_export_continues_and_gives_the_same_files(
    name: str, tmp_path: Path, kill: list[float]
) -> None:
    source, texts = Store(str(tmp_path / "latents")), Store(str(tmp_path / "texts"))
    write_latents(source, UNITS, LTX2 if name == "ltx2" else WAN)
    write_texts(texts, source, UNITS)
    text = None if name == "ltx2" else texts.uri
    whole = export(source.uri, name, str(tmp_path / "out-whole"), text=text, shard_bytes=2000)
    assert whole.clips == sum(UNITS.values())
    killed = 0
    out = tmp_path / "out-killed"
    while True:
        kill[0] = 1 + 2 * killed
        try:
            found = export(source.uri, name, str(out), text=text, shard_bytes=2000)
        except Killed:
            killed += 1
            assert killed < 50
            continue
        break
    assert killed > 2
    assert replace(found, output=whole.output, units_now=whole.units_now) == whole
    assert files_of(out) == files_of(tmp_path / "out-whole")
    kill[0] = float("inf")
    again = export(source.uri, name, str(out), text=text, shard_bytes=2000)
    assert (again.units_now, again.clips) == (0, whole.clips)
    assert files_of(out) == files_of(tmp_path / "out-whole")


def test_what_was_committed_since_is_added_and_no_file_changes(
    latents: Store, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export(latents.uri, "webdataset", str(out))
    before = files_of(out)
    write_latents(latents, {"e": 3})
    found = export(latents.uri, "webdataset", str(out))
    assert (found.units_now, found.units, found.clips) == (1, 5, sum(UNITS.values()) + 3)
    after = files_of(out)
    assert before.items() < after.items()


def test_merged_parts_are_the_same_rows(latents: Store, tmp_path: Path) -> None:
    export(latents.uri, "webdataset", str(tmp_path / "before"))
    assert compact(latents).files_after == 2
    assert export(latents.uri, "webdataset", str(tmp_path / "before")).units_now == 0
    found = export(latents.uri, "webdataset", str(tmp_path / "after"))
    assert found.exit_code == 0
    assert files_of(tmp_path / "before") == files_of(tmp_path / "after")


def test_rows_without_text_are_left_out_and_counted(
    latents: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = Store(str(tmp_path / "texts"))
    lost = clips_of("a", 3)
    write_texts(texts, latents, {"a": 3}, leave_out=[next(iter(lost.values()))[0].clip_id])
    write_texts(texts, latents, {"b": 4})
    arguments = ["export", latents.uri, "--as", "musubi", "--out", str(tmp_path / "out")]
    assert main([*arguments, "--text", texts.uri]) == 0
    text = capsys.readouterr().out
    assert "holds      6 clips of 14 rows · 2 units · 12 files" in text
    assert "left out   8 rows: no_text" in text
    assert "waiting    2 units without current text embeddings" in text
    write_texts(texts, latents, {"c": 2, "d": 5})
    found = export(latents.uri, "musubi", str(tmp_path / "out"), text=texts.uri)
    assert (found.clips, found.left_out, found.units_waiting) == (13, {"no_text": 1}, 0)


def test_text_of_an_earlier_state_of_a_unit_is_not_used(
    latents: Store, texts: Store, tmp_path: Path
) -> None:
    do_again(latents, "b")
    found = export(latents.uri, "musubi", str(tmp_path / "out"), text=texts.uri)
    assert (found.units, found.units_waiting, found.left_out) == (3, 1, {"no_text": 4})
    assert found.exit_code == 0


def test_a_unit_that_was_done_again_is_refused(latents: Store, tmp_path: Path) -> None:
    export(latents.uri, "webdataset", str(tmp_path / "out"))
    do_again(latents, "b")
    with pytest.raises(ConfigError, match="holds unit b, which was repeated since"):
        export(latents.uri, "webdataset", str(tmp_path / "out"))


def do_again(store: Store, unit: str) -> None:
    dataset = read_dataset(store)
    log = CommitLog(store, fingerprint=dataset.fingerprint, run="a retry")
    log.reopen([Reopened(unit=unit, sources=(f"/in/{unit}.tar",))])
    log.plan()
    record = write_unit(store, dataset, unit, UNITS[unit])
    log.append([replace(record, timings={"decode": 2.0})])


def test_another_export_in_the_folder_is_refused(latents: Store, tmp_path: Path) -> None:
    export(latents.uri, "webdataset", str(tmp_path / "out"))
    with pytest.raises(DatasetMismatch, match=r"shard_bytes: \d+ there, 5 in this export"):
        export(latents.uri, "webdataset", str(tmp_path / "out"), shard_bytes=5)


def test_a_missing_part_is_an_error_and_its_group_has_no_record(
    latents: Store, tmp_path: Path
) -> None:
    latents.delete(next(path for path in latents.list("data") if "/d-" in path))
    with pytest.raises(StoreError, match="missing"):
        export(latents.uri, "webdataset", str(tmp_path / "out"), shard_bytes=1)
    assert len(list((tmp_path / "out/_export/groups").iterdir())) == 3


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("diffusion-pipe", "cannot be written: its cache is valid only with a hash"),
        ("lance", "must be one of fastvideo, musubi, ltx2, webdataset"),
        ("fastvideo", "needs text embeddings of transformers:UMT5EncoderModel"),
        ("musubi", "needs text embeddings of transformers:UMT5EncoderModel"),
        (
            "ltx2",
            r"takes latents of diffusers:AutoencoderKLLTX2Video; .* has wan \(.*KLWan, latents",
        ),
    ],
)
def test_what_a_format_cannot_hold_is_refused_by_name(
    name: str, says: str, latents: Store, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=says):
        export(latents.uri, name, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_columns_of_vidtok_go_to_webdataset_alone(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "tokens"))
    sound(store)
    for name in ("fastvideo", "musubi", "ltx2"):
        with pytest.raises(ConfigError, match=r"has fsq \(vidtok_fsq.*, indices\), kl \(vidtok_kl"):
            export(store.uri, name, str(tmp_path / "out"))
    with pytest.raises(ConfigError, match="can hold only one of fsq, kl; name it with --column"):
        export(store.uri, "webdataset", str(tmp_path / "out"))
    found = export(store.uri, "webdataset", str(tmp_path / "out"), column="fsq")
    assert (found.exit_code, found.units) == (0, 3)
    with pytest.raises(
        ConfigError, match="--column x: the dataset has no such column; it has fsq, kl"
    ):
        export(store.uri, "webdataset", str(tmp_path / "out"), column="x")


def test_normalised_latents_need_a_normalisation(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "latents"))
    write_latents(store, UNITS, replace(LTX2, normalize=None))
    with pytest.raises(ConfigError, match=r"the normalisation of ltx \(diffusers:.* is not known"):
        export(store.uri, "ltx2", str(tmp_path / "out"))


def test_text_must_be_of_this_dataset_and_of_the_right_model(
    latents: Store, texts: Store, tmp_path: Path
) -> None:
    other = Store(str(tmp_path / "other"))
    write_latents(other, {"a": 3}, LTX2)
    with pytest.raises(ConfigError, match=f"was not made by `embed` from {latents.uri}"):
        export(latents.uri, "musubi", str(tmp_path / "out"), text=other.uri)
    with pytest.raises(ConfigError, match="--as ltx2 takes no text: its conditions are features"):
        export(other.uri, "ltx2", str(tmp_path / "out"), text=texts.uri)
    clip = Store(str(tmp_path / "clip"))
    model = replace(TEXT, model="transformers:CLIPTextModel")
    open_dataset(clip, text_head(read_dataset(latents), model))
    with pytest.raises(ConfigError, match="must have one column of transformers:UMT5EncoderModel"):
        export(latents.uri, "musubi", str(tmp_path / "out"), text=clip.uri)


def test_rows_that_are_nowhere_are_an_imbalance() -> None:
    found = Exported(output="out", format="musubi", column="wan", rows=3, clips=1)
    assert replace(found, left_out={"no_text": 2}).exit_code == 0
    assert found.exit_code == 1
    assert found.lines()[-1].startswith("IMBALANCE")
