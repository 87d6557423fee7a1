"""Errors of a store that a setting causes: no credentials, or a place that cannot be written."""

import errno
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from pipeline.errors import ConfigError, redacted
from pipeline.storage.files import canonical_uri, is_local
from pipeline.storage.store import Store

_NO_CREDENTIALS: Final = frozenset(
    {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"}
)
"""Classes of botocore. They are compared by name, because the library is optional."""

_REFUSED: Final = frozenset(
    {
        *("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
        *("ExpiredToken", "InvalidToken", "NoSuchBucket", "403"),
    }
)
"""Answers of S3 that only other credentials or another bucket can change."""

_OF_THE_PLACE: Final = frozenset(
    {
        *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT),
        *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG),
    }
)
"""Errors of a local disk that the path causes."""


@contextmanager
def wrong_settings(field: str, uri: str, options: str = "storage_options") -> Iterator[None]:
    """Raise `ConfigError` if a setting causes an error of a store; only for the start of work.

    Later the same error can pass: credentials expire and are renewed, and a mount is away.

    Args:
        field: setting that names the place.
        uri: the place.
        options: setting with the options of its file system.

    Raises:
        ConfigError: there are no credentials, the store refuses them, or the path is not usable.
    """
    try:
        yield
    except OSError as error:
        if reason := _reason(error, options):
            raise ConfigError(redacted(f"{field} = {uri}: {reason}")) from error
        raise


def missing_credentials(error: BaseException, options: str | None = None) -> str | None:
    """Return what to set, if an error means that a store got no credentials."""
    for cause in _causes(error):
        if type(cause).__name__ in _NO_CREDENTIALS:
            fix = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            if options is not None:
                fix += f", or {options}.key and .secret; a public bucket takes {options}.anon=true"
            return fix
    return None


def require_writable(store: Store, field: str, options: str = "storage_options") -> None:
    """Write and delete a small file. Folders that this makes on a local disk are removed again.

    Raises:
        ConfigError: a setting is the reason why that fails.
        StoreError: the store failed.
    """
    path = f".probe-{uuid.uuid4().hex}"
    with wrong_settings(field, store.uri, options), leaving_no_folder(store.uri):
        store.write(path, b"")
        store.delete(path)


@contextmanager
def leaving_no_folder(uri: str) -> Iterator[None]:
    """Remove the empty folders that work makes on a local disk, down to a store's root."""
    folder = Path(canonical_uri(uri)) if is_local(uri) else None
    made = [each for each in (folder, *folder.parents) if not each.exists()] if folder else []
    try:
        yield
    finally:
        for each in made:
            with suppress(OSError):  # another process has put something there
                each.rmdir()


def _reason(error: BaseException, options: str) -> str | None:
    if fix := missing_credentials(error, options):
        return f"no credentials for the store; {fix}"
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        code = response.get("Error", {}).get("Code") if isinstance(response, Mapping) else None
        if code in _REFUSED:
            return (
                f"the store refuses it ({code}); check the bucket's name, and the credentials in"
                f" the environment or in {options}"
            )
    for cause in _causes(error):
        if isinstance(cause, OSError) and cause.errno in _OF_THE_PLACE:
            return f"{cause.strerror}; choose a place that this user can reach"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__
