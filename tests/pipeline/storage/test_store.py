"""The contract of a store, on every kind of store, and what each kind does under its own faults."""

import multiprocessing
import os
import pickle
import stat
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import AlreadyExists, ConfigError, StateUnknown, StoreError
from pipeline.storage.files import list_folder
from pipeline.storage.local_disk import TEMPORARY_PREFIX
from pipeline.storage.store import Store
from tests.pipeline.s3 import S3Server


class StoreContract:
    """What holds for every store; a class of tests for each kind inherits it."""

    def test_reads_what_was_written(self, store: Store) -> None:
        store.write("a/b.bin", b"first")
        store.write("a/b.bin", b"second")
        assert store.read("a/b.bin") == b"second"
        assert store.size("a/b.bin") == 6
        with store.open("a/b.bin") as file:
            assert file.read(3) == b"sec"
            assert file.read() == b"ond"
            assert (file.seek(1), file.read(2)) == (1, b"ec")

    def test_reads_ranges(self, store: Store) -> None:
        store.write("a.bin", b"0123456789")
        with store.open_ranges("a.bin", 10) as file:
            assert (file.seek(6), file.read(2)) == (6, b"67")
            assert (file.seek(1), file.read(3)) == (1, b"123")
            assert (file.seek(-3, os.SEEK_END), file.tell(), file.read()) == (7, 7, b"789")
            assert (file.read(1), file.seek(2), file.seek(2, os.SEEK_CUR)) == (b"", 2, 4)
        with pytest.raises(FileNotFoundError), store.open_ranges("nothing", 10) as file:
            file.read(1)

    def test_what_is_not_there(self, store: Store) -> None:
        assert not store.exists("nothing")
        assert store.list() == []
        assert store.list("folder") == []
        with pytest.raises(FileNotFoundError):
            store.read("nothing")
        with pytest.raises(FileNotFoundError):
            store.size("nothing")
        store.delete("nothing")

    def test_lists_all_depths_sorted_and_relative(self, store: Store) -> None:
        names = ["log/2.json", "log/1.json", "data/x/y.parquet", "data.txt", "top"]
        for name in names:
            store.write(name, b"x")
        assert store.list() == sorted(names)
        assert store.list("log") == ["log/1.json", "log/2.json"]
        assert store.list("data") == ["data/x/y.parquet"]

    def test_files_with_size_and_time(self, store: Store) -> None:
        before = time.time()
        store.write("data/x/y", b"12345")
        store.write("top", b"")
        found = {file.path: file for file in store.files()}
        assert {path: file.bytes for path, file in found.items()} == {"data/x/y": 5, "top": 0}
        # S3 counts in seconds.
        assert all(abs(file.modified - before) < 30 for file in found.values())
        assert list(store.files("data/x/y")) == list(store.files("data")) == [found["data/x/y"]]
        assert list(store.files("nothing")) == []

    def test_listing_is_never_stale(self, store: Store) -> None:
        store.write("log/1", b"")
        assert store.list("log") == ["log/1"]
        Store(store.uri, store.storage_options).write("log/2", b"")
        assert store.list("log") == ["log/1", "log/2"]
        store.delete("log/1")
        assert store.list("log") == ["log/2"]

    def test_is_rebuilt_in_another_process(self, store: Store) -> None:
        store.write("a", b"here")
        copy = pickle.loads(pickle.dumps(store))
        assert copy == store
        assert copy.read("a") == b"here"

    def test_put_if_absent(self, store: Store) -> None:
        store.put_if_absent("log/1", b"first")
        with pytest.raises(AlreadyExists, match="log/1"):
            store.put_if_absent("log/1", b"second")
        assert store.read("log/1") == b"first"
        assert store.list() == ["log/1"], "the loser left something behind"

    def test_settle_returns_what_stands_there(self, store: Store) -> None:
        assert store.put_or_read("log/1", b"first") == b"first"
        assert store.put_or_read("log/1", b"second") == b"first"

    def test_racing_threads_have_one_winner(self, store: Store) -> None:
        for round_ in range(5):
            path = f"log/{round_}"
            barrier = threading.Barrier(4)

            def put(
                name: bytes, path: str = path, barrier: threading.Barrier = barrier
            ) -> bytes | None:
                barrier.wait()
                try:
                    store.put_if_absent(path, name)
                except AlreadyExists:
                    return None
                return name

            with ThreadPoolExecutor(4) as pool:
                won = [n for n in pool.map(put, [b"a", b"b", b"c", b"d"]) if n is not None]
            assert [store.read(path)] == won

    def test_staged_file_is_invisible_until_published(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with store.stage("data") as staged:
            staged.file.write(b"half")
            assert store.list() == []
            staged.file.write(b" and half")
            staged.publish("data/part")
            assert [path.name for path in tmp_path.rglob(f"{TEMPORARY_PREFIX}*")] == []
        assert store.list() == ["data/part"]
        assert store.read("data/part") == b"half and half"

    def test_staged_file_that_fails_leaves_nothing(
        self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with pytest.raises(ZeroDivisionError), store.stage("data") as staged:
            staged.file.write(b"%d" % (1 // 0))
        assert store.list() == []
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == []

    def test_probe(self, store: Store) -> None:
        assert store.supports_put_if_absent()
        store.require_put_if_absent()
        assert store.list() == [], "the probe left something behind"


class TestLocal(StoreContract):
    @pytest.fixture
    def store(self, local: Store) -> Store:
        return local

    @pytest.mark.parametrize("write", [Store.write, Store.put_if_absent, Store.put_or_read])
    def test_other_users_can_read(
        self, store: Store, write: Callable[[Store, str, bytes], object]
    ) -> None:
        before = os.umask(0o022)
        try:
            write(store, "a", b"x")
        finally:
            os.umask(before)
        mode = Path(store.locate("a")).stat().st_mode
        assert stat.S_IMODE(mode) == 0o644

    def test_a_killed_writer_is_not_listed(self, store: Store) -> None:
        staged = store.stage("data")
        staged.file.write(b"half")
        staged.file.flush()
        assert len(list(Path(store.locate("data")).iterdir())) == 1
        assert store.list() == []
        assert list_folder(store.locate("data")) == []
        staged.discard()

    def test_resent_link_is_a_win(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        """NFS repeats a request whose reply was lost, and is then refused by its own first try."""
        link = os.link

        def link_then_refuse(source: Path, target: Path) -> None:
            link(source, target)
            raise FileExistsError(target)

        monkeypatch.setattr(os, "link", link_then_refuse)
        store.put_if_absent("log/1", b"ours")
        assert store.read("log/1") == b"ours"

    def test_a_claim_whose_temporary_file_vanishes_is_made_again(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The writer stands still before it links the file, and vacuum deletes it."""
        link = os.link

        def vanish_then_link(source: Path, target: Path) -> None:
            monkeypatch.undo()
            source.unlink()
            link(source, target)

        monkeypatch.setattr(os, "link", vanish_then_link)
        assert store.put_or_read("log/1.json", b"one") == b"one"
        assert store.read("log/1.json") == b"one"
        monkeypatch.setattr(os, "link", vanish_then_link)
        with pytest.raises(StateUnknown, match="temporary file disappeared"):
            store.put_if_absent("log/2.json", b"two")
        assert store.list() == ["log/1.json"]

    def test_a_staged_file_that_vanishes_is_a_store_error(self, store: Store) -> None:
        with store.stage("data") as staged:
            staged.file.write(b"part")
            for file in list(store.files()):
                store.delete(file.path)
            with pytest.raises(StoreError, match=r"data/1: its temporary file disappeared"):
                staged.publish("data/1")
        assert list(store.files()) == []

    def test_a_probe_that_vanishes_accuses_nobody(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put = Store.put_or_read

        def put_then_vanish(self: Store, path: str, data: bytes) -> bytes:
            monkeypatch.undo()
            found = put(self, path, data)
            self.delete(path)
            return found

        monkeypatch.setattr(Store, "put_or_read", put_then_vanish)
        assert store.supports_put_if_absent()

    def test_disk_without_hard_links_is_refused(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_links(source: Path, target: Path) -> None:
            raise PermissionError("hard links are not supported")

        monkeypatch.setattr(os, "link", no_links)
        with pytest.raises(StoreError, match="hard links are not supported"):
            store.require_put_if_absent()
        assert store.list() == []

    def test_racing_processes_have_one_winner(self, store: Store) -> None:
        context = multiprocessing.get_context("spawn")
        with context.Pool(2) as pool:
            won = pool.starmap(_claim_all, [(store, b"a"), (store, b"b")])
        assert sorted(won[0] + won[1]) == [f"log/{n:02}" for n in range(40)]
        for name, paths in zip([b"a", b"b"], won, strict=True):
            assert {store.read(path) for path in paths} <= {name}

    def test_a_folder_in_the_way_is_a_store_error(self, store: Store) -> None:
        store.write("a/b", b"x")
        with pytest.raises(StoreError, match="/a"):
            store.write("a", b"x")
        with pytest.raises(StoreError):
            store.write("a/b/c", b"x")


def _claim_all(store: Store, name: bytes) -> list[str]:
    return [p for n in range(40) if store.put_or_read(p := f"log/{n:02}", name) == name]


@pytest.mark.s3
class TestS3(StoreContract):
    @pytest.fixture
    def store(self, s3_store: Store) -> Store:
        return s3_store

    def test_large_objects_are_conditional_too(self, s3_store: Store) -> None:
        """Above 100 MB s3fs uploads in parts; the condition is then on the completing request."""
        data = bytes(101 << 20)
        s3_store.put_if_absent("big", data)
        with pytest.raises(AlreadyExists):
            s3_store.put_if_absent("big", data)
        assert s3_store.size("big") == len(data)

    def test_a_file_is_read_in_one_request(self, s3: S3Server, s3_store: Store) -> None:
        s3_store.write("a", b"content")
        asked: list[str] = []
        with s3.faults.rule(lambda environ: asked.append(environ["REQUEST_METHOD"])):
            assert s3_store.read("a") == b"content"
        assert asked == ["GET"]

    def test_refusal_without_named_condition(self, s3: S3Server, s3_store: Store) -> None:
        """Some servers answer 412 in a form that s3fs takes for an invalid argument."""
        s3_store.put_if_absent("log/1", b"first")
        with s3.faults.times("opaque_412", 1, part="log/1"), pytest.raises(AlreadyExists):
            s3_store.put_if_absent("log/1", b"second")

    def test_conflict_is_tried_again(self, s3: S3Server, s3_store: Store) -> None:
        with s3.faults.times("conflict_409", 2, part="log/1"):
            s3_store.put_if_absent("log/1", b"ours")
        assert s3_store.read("log/1") == b"ours"

    def test_conflict_without_end(self, s3: S3Server, s3_store: Store) -> None:
        with (
            s3.faults.times("conflict_409", 99, part="log/1"),
            pytest.raises(StoreError, match="log/1") as caught,
        ):
            s3_store.put_if_absent("log/1", b"ours")
        assert not isinstance(caught.value, AlreadyExists | StateUnknown)

    @pytest.mark.parametrize("kind", ["lose_reply", "drop_reply"])
    def test_lost_reply_is_never_an_answer(self, s3: S3Server, s3_store: Store, kind: str) -> None:
        """The write was applied, but the client heard nothing, or a refusal of its own repeat."""
        with (
            s3.faults.times(kind, 1, part="log/1"),
            pytest.raises((AlreadyExists, StateUnknown)),
        ):
            s3_store.put_if_absent("log/1", b"ours")
        assert s3_store.read("log/1") == b"ours"

    @pytest.mark.parametrize("kind", ["lose_reply", "drop_reply", "refuse_503", "lie", "reset"])
    def test_settle_finds_out(self, s3: S3Server, s3_store: Store, kind: str) -> None:
        with s3.faults.times(kind, 2, part="log/1"):
            assert s3_store.put_or_read("log/1", b"ours") == b"ours"
        assert s3.get(s3_store.locate("log/1")) == b"ours"
        assert s3_store.put_or_read("log/1", b"theirs") == b"ours"

    @pytest.mark.parametrize(
        ("kind", "says"),
        [("lie", "the file does not exist"), ("cut_short", "the file has 500; check the store")],
    )
    def test_an_upload_that_the_store_lies_about_is_noticed(
        self, s3: S3Server, s3_store: Store, kind: str, says: str
    ) -> None:
        for _ in range(2):
            with s3.faults.times(kind, 1, part="data"), s3_store.stage("data") as staged:
                staged.file.write(bytes(1000))
                with pytest.raises(StoreError, match=says):
                    staged.publish("data/part")

    def test_settle_gives_up_without_a_guess(self, s3: S3Server, s3_store: Store) -> None:
        with (
            s3.faults.times("refuse_503", 999, part="log/1"),
            s3.faults.times("refuse_503", 999, method="GET", part="log/1"),
            pytest.raises(StateUnknown, match="log/1"),
        ):
            s3_store.put_or_read("log/1", b"ours")

    def test_store_that_ignores_the_condition_is_refused(
        self, s3: S3Server, s3_store: Store
    ) -> None:
        with s3.faults.times("ignore_condition", 999):
            assert not s3_store.supports_put_if_absent()
            with pytest.raises(ConfigError, match=r"output = s3://.*If-None-Match"):
                s3_store.require_put_if_absent()
        assert s3_store.list() == []

    def test_listing_shows_what_other_clients_wrote(self, s3: S3Server, s3_store: Store) -> None:
        s3_store.write("log/1", b"")
        assert s3_store.list("log") == ["log/1"]
        s3.put(s3_store.locate("log/2"), b"")
        assert s3_store.list("log") == ["log/1", "log/2"]
        assert s3_store.exists("log/2")

    def test_a_folder_that_appears_during_a_listing_is_not_a_file(
        self, s3_store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """s3fs then returns the folder itself: it looks at the path again if it found nothing."""
        appeared = {"name": "log", "size": 0, "type": "directory"}
        fs = s3_store.filesystem()
        monkeypatch.setattr(fs, "find", lambda path, detail: {path: appeared})
        assert s3_store.list("log") == []

    def test_missing_bucket_is_a_store_error(self, s3: S3Server) -> None:
        nowhere = Store("s3://no-such-bucket-here/corpus", s3.storage_options)
        with pytest.raises((StoreError, FileNotFoundError)):
            nowhere.put_if_absent("a", b"x")

    def test_reading_that_breaks_midway(self, s3: S3Server, s3_store: Store) -> None:
        s3_store.write("video", b"x" * (9 << 20))
        with s3_store.open("video") as file:
            assert file.read(1) == b"x"
            with (
                s3.faults.times("refuse_503", 999, method="GET"),
                pytest.raises(StoreError, match="video"),
            ):
                file.read()

    def test_ranges_are_read_and_nothing_else(self, s3: S3Server, s3_store: Store) -> None:
        s3_store.write("part", b"x" * (9 << 20))
        asked: list[tuple[str, str]] = []
        with (
            s3.faults.rule(
                lambda environ: asked.append(
                    (environ["REQUEST_METHOD"], environ.get("HTTP_RANGE", ""))
                )
            ),
            s3_store.open_ranges("part", 9 << 20) as file,
        ):
            file.seek(100)
            assert file.read(50) == b"x" * 50
        assert asked == [("GET", "bytes=100-149")]
