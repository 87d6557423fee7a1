"""Errors of a store that a setting causes, and those that only the store causes."""

import errno
from pathlib import Path

import pytest

from pipeline.errors import ConfigError, StoreError
from pipeline.storage.access import missing_credentials, require_writable, wrong_settings
from pipeline.storage.store import Store


class ClientError(Exception):
    """An answer of S3 as botocore raises it."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.response = {"Error": {"Code": code}}


class NoCredentialsError(Exception):
    """An error of the name that botocore uses."""


def store_error(cause: BaseException) -> StoreError:
    error = StoreError(f"s3://b/x: {cause}")
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("/proc/x", "No such file or directory"),
        ("/proc/1/x/y", ""),
        ("TMP/file", "File exists"),
        ("TMP/file/x", "Not a directory"),
        (f"TMP/{'x' * 300}", "File name too long"),
    ],
)
def test_an_output_that_cannot_be_made_is_a_wrong_setting(
    uri: str, says: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    path = uri.replace("TMP", str(tmp_path))
    with pytest.raises(ConfigError, match="choose a place that this user can reach") as caught:
        require_writable(Store(path), "output.uri")
    assert str(caught.value).startswith(f"output.uri = {path}: {says}")
    assert "\n" not in str(caught.value)


def test_an_output_that_can_be_made_keeps_no_trace(tmp_path: Path) -> None:
    require_writable(Store(str(tmp_path / "a/b")), "output.uri")
    assert not list(tmp_path.iterdir())
    (tmp_path / "a").mkdir()
    require_writable(Store(str(tmp_path / "a/b")), "output.uri")
    assert [path.name for path in tmp_path.rglob("*")] == ["a"]


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "NoSuchBucket"])
def test_a_refusal_is_a_wrong_setting(code: str) -> None:
    with (
        pytest.raises(ConfigError, match=rf"^output.uri = s3://b/x: the store refuses it \({code}"),
        wrong_settings("output.uri", "s3://b/x"),
    ):
        raise store_error(ClientError(code))


@pytest.mark.parametrize(
    "cause",
    [ClientError("SlowDown"), ClientError("InternalError"), OSError(errno.EIO, "disk"), OSError()],
    ids=str,
)
def test_a_fault_of_the_store_stays_one(cause: BaseException) -> None:
    with pytest.raises(StoreError), wrong_settings("output.uri", "s3://b/x"):
        raise store_error(cause)
    assert missing_credentials(store_error(cause)) is None


def test_missing_credentials_name_what_to_set() -> None:
    with (
        pytest.raises(ConfigError) as caught,
        wrong_settings("source.uri", "s3://b/x", "source.storage_options"),
    ):
        raise store_error(NoCredentialsError("Unable to locate credentials"))
    assert str(caught.value) == (
        "source.uri = s3://b/x: no credentials for the store; set AWS_ACCESS_KEY_ID and"
        " AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or source.storage_options.key and .secret; a"
        " public bucket takes source.storage_options.anon=true"
    )
