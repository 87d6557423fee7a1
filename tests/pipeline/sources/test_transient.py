"""What may pass is retried and recorded nowhere; what lasts is the record of one sample."""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.source import ListConfig, VideoSource
from pipeline.errors import StoreError
from pipeline.quarantine import GIVEN_UP, Quarantined
from pipeline.records import LooseFile, Sample, WorkUnit
from pipeline.sources import lists
from pipeline.sources.lists import cut_list, read_rows
from pipeline.sources.planning import rows_unit
from pipeline.sources.reader import SampleReader
from pipeline.storage.files import StoreReader, open_filesystem
from pipeline.storage.local_disk import blames_file
from pipeline.storage.store import Store
from tests.pipeline.s3 import S3Server
from tests.pipeline.sources.reading import read_all, units_of


@contextmanager
def answering(status: int) -> Iterator[str]:
    """Serve `good.mp4`, and answer anything else with a status; yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200 if "good" in self.path else status)
            self.send_header("Content-Length", "5" if "good" in self.path else "0")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()
            if "good" in self.path:
                self.wfile.write(b"video")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def write_list(folder: Path, *urls: str) -> str:
    path = folder / "l.jsonl"
    path.write_text("".join(json.dumps({"video": url}) + "\n" for url in urls))
    return str(path)


def outcomes(found: list[Any]) -> list[str | None]:
    return [one.reason if isinstance(one, Quarantined) else None for one in found]


def one_by_one(uri: str) -> list[Any]:
    source = VideoSource(uri=[uri])
    [unit] = units_of([uri])
    return list(SampleReader(source).read(unit, one_by_one=True))


@pytest.mark.parametrize("status", [404, 410, 400, 414, 451])
def test_an_answer_that_lasts_costs_its_own_sample(status: int, tmp_path: Path) -> None:
    with answering(status) as url:
        found = read_all(write_list(tmp_path, f"{url}/bad.mp4", f"{url}/good.mp4"))
    assert outcomes(found) == ["file_unreadable", None]
    assert found[1].video == b"video"


@pytest.mark.parametrize("status", [401, 403, 408, 425, 429, 500, 502, 503, 504])
def test_an_answer_that_may_change_is_no_verdict(status: int, tmp_path: Path) -> None:
    with answering(status) as url:
        rows = write_list(tmp_path, f"{url}/bad.mp4", f"{url}/good.mp4")
        with pytest.raises(StoreError, match=rf"bad\.mp4: .*\b{status}\b"):
            read_all(rows)
        found = one_by_one(rows)
    assert outcomes(found) == [GIVEN_UP, None]
    assert str(status) in found[0].detail


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "no-such-host.invalid"])
def test_no_connection_and_no_name_are_no_verdict(host: str, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://{host.format(port=unused.getsockname()[1])}/a.mp4"
        with pytest.raises(StoreError, match=r"a\.mp4: ClientConnector"):
            read_all(write_list(tmp_path, url))


@pytest.mark.parametrize("name", ["a.mp4", "l.csv", "l.parquet", "t.tar", "*.mp4"])
def test_a_source_that_answers_busy_is_not_a_wrong_setting(name: str) -> None:
    with answering(503) as url, pytest.raises(StoreError, match="503"):
        units_of([f"{url}/{name}"])


def test_a_download_has_no_limit_in_all_and_one_without_bytes() -> None:
    """The headers that a user sets do not bring the default of five minutes back."""
    headers = {"client_kwargs": {"headers": {"x": "y"}}}
    for options in (None, headers):
        fs, _ = open_filesystem("https://host/a.mp4", options)
        timeout = fs.client_kwargs["timeout"]
        assert timeout.total is None
        assert 0 < timeout.sock_read <= 60
        assert 0 < timeout.sock_connect <= 60
    assert fs.client_kwargs["headers"] == {"x": "y"}


class FailingFile:
    """A file that fails from a position on."""

    def __init__(self, path: Path, sound: int, number: int) -> None:
        self._file = path.open("rb")
        self._sound, self._error = sound, OSError(number, os.strerror(number))

    def read(self, size: int = -1) -> bytes:
        if size < 0 or self._file.tell() + size > self._sound:
            raise self._error
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN])
@pytest.mark.parametrize("suffix", ["parquet", "csv", "jsonl"])
def test_a_disk_that_fails_under_a_list(
    suffix: str, number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No list is called damaged, and no row is lost: at its beginning, and in its middle."""
    path = tmp_path / f"l.{suffix}"
    names = [f"{n * 7919:03500d}.mp4" for n in range(700)]
    if suffix == "parquet":
        table = pa.table({"video": names})
        pq.write_table(table, path, row_group_size=10, use_dictionary=False, compression="none")
    elif suffix == "csv":
        path.write_text("video\n" + "\n".join(names))
    else:
        path.write_text("".join(f'{{"video": "{name}"}}\n' for name in names))
    config = ListConfig(rows_per_unit=700)
    [rows] = cut_list(str(path), config, None)
    size = path.stat().st_size

    def failing(sound: int) -> Any:
        return lambda uri, options: StoreReader(FailingFile(path, sound, number), uri)

    for sound in (0, size * 2 // 3):
        monkeypatch.setattr(lists, "open_file", failing(sound))
        with pytest.raises(StoreError, match=rf"l\.{suffix}: .*\[Errno {number}\]"):
            list(cut_list(str(path), config, None))
        with pytest.raises(StoreError, match=rf"l\.{suffix}: .*\[Errno {number}\]"):
            list(read_rows(rows, config, None))
    with pytest.raises(StoreError):
        list(SampleReader(VideoSource(uri=[str(path)])).read(rows_unit(rows)))


@pytest.mark.s3
def test_a_bucket_that_is_away_is_no_verdict(s3: S3Server, s3_store: Store) -> None:
    source = VideoSource(uri=["unused"], storage_options=s3.storage_options)

    def read(uri: str) -> list[Any]:
        files = (LooseFile(key="a.mp4", uri=uri),)
        return list(SampleReader(source).read(WorkUnit(unit="u", files=files)))

    assert outcomes(read(s3_store.locate("a.mp4"))) == ["file_unreadable"]
    with pytest.raises(StoreError):
        read("s3://no-such-bucket-at-all/a.mp4")


class TestLocal:
    def test_a_folder_that_is_away(self, tmp_path: Path) -> None:
        folder = tmp_path / "mount"
        folder.mkdir()
        (folder / "a.mp4").write_bytes(b"x")
        [unit] = units_of([str(folder)])
        reader = SampleReader(VideoSource(uri=[str(folder)]))
        away = folder.rename(tmp_path / "away")
        for mount_point_stays in (False, True):
            if mount_point_stays:
                folder.mkdir()
            with pytest.raises(StoreError, match=r"a\.mp4: missing, and its folder is"):
                list(reader.read(unit))
        folder.rmdir()
        away.rename(folder)
        [sample] = reader.read(unit)
        assert isinstance(sample, Sample)

    def test_a_file_that_is_gone(self, tmp_path: Path) -> None:
        for name in ("a.mp4", "b.mp4"):
            (tmp_path / name).write_bytes(b"x")
        [unit] = units_of([str(tmp_path)])
        (tmp_path / "a.mp4").unlink()
        found = list(SampleReader(VideoSource(uri=[str(tmp_path)])).read(unit))
        assert outcomes(found) == ["file_unreadable", None]

    @pytest.mark.parametrize(
        ("number", "blamed"),
        [
            *((n, True) for n in (errno.EACCES, errno.EISDIR, errno.ENOTDIR, errno.ENAMETOOLONG)),
            *((n, False) for n in (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT)),
            *((n, False) for n in (errno.EMFILE, errno.ENOMEM, errno.EHOSTDOWN)),
        ],
    )
    def test_errors_by_number(self, number: int, blamed: bool) -> None:
        assert blames_file("/x/a.mp4", OSError(number, os.strerror(number))) is blamed

    def test_a_missing_file_whose_name_is_there(self, tmp_path: Path) -> None:
        """The target of the link is away, or a server forgot what it listed."""
        (tmp_path / "a.mp4").symlink_to(tmp_path / "elsewhere/a.mp4")
        with pytest.raises(FileNotFoundError) as caught:
            (tmp_path / "a.mp4").open()
        assert not blames_file(str(tmp_path / "a.mp4"), caught.value)
        assert blames_file(str(tmp_path / "b.mp4"), caught.value)
