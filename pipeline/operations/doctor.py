"""Examines this machine, and if asked a source and an output, before a job meets what is broken."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, Literal

from pipeline.config.source import VideoSource
from pipeline.errors import BALANCED, UNBALANCED, PipelineError, one_line
from pipeline.formatting import counted, format_bytes, visible
from pipeline.operations.machine import cpu_features, free_memory, gpus, usable_cores
from pipeline.operations.outcome import Outcome
from pipeline.records import unit_sources
from pipeline.sources.planning import plan_units
from pipeline.storage.access import leaving_no_folder, require_writable, wrong_settings
from pipeline.storage.files import open_file
from pipeline.storage.store import Store

State = Literal["ok", "note", "broken"]
"""Result of a check. `note`: jobs run, but slower or not all of them. `broken`: jobs fail."""

_REQUIRED: Final = ("torch", "ray", "pyarrow", "av")

_OPTIONAL: Final = {"s3fs": "without it s3:// cannot be opened; pip install 'vidtok-pipeline[s3]'"}

_OPTIONAL_ON_GPUS: Final = {"triton": "without it norms are slower; torch for CUDA brings it"}

_SHARED_MEMORY: Final = "/dev/shm"
"""Folder of Ray's object store on Linux."""

_LEAST_MEMORY: Final = 4 << 30

_LEAST_DISK: Final = 5 << 30

_LEAST_SHARED: Final = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one check found."""

    name: str
    state: State
    text: str
    """What was found, in one line."""
    fix: str = ""
    """What to do; empty for `ok`."""

    def __str__(self) -> str:
        advice = f"; {self.fix}" if self.fix else ""
        return visible(f"{self.state:<8}{self.name:<10}{self.text}{advice}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis(Outcome):
    """What all checks found."""

    checks: list[Check]

    @property
    def exit_code(self) -> int:
        """Exit code: 1 if something is broken."""
        return UNBALANCED if any(one.state == "broken" for one in self.checks) else BALANCED

    def lines(self) -> list[str]:
        """Return the lines to print."""
        return list(map(str, self.checks))


def examine(source: str | None = None, output: str | None = None) -> Diagnosis:
    """Examine this machine, and the access to a source and an output if they are given.

    The Ray that `RAY_ADDRESS` names is joined or started; without it, Ray is only imported. In the
    output a temporary file is written and deleted.

    Args:
        source: a tar, file, folder, glob or list, as `source.uri` of a job.
        output: root of a dataset, as `output.uri` of a job.
    """
    checks = [*_packages(), _ray(), *_gpus(), _cpu(), _codecs(), _memory(), *_disks()]
    if source is not None:
        checks.append(_place("source", source, _read_source, "the spelling and the credentials"))
    if output is not None:
        checks.append(_place("output", output, _try_output, "the credentials and the permissions"))
    return Diagnosis(checks=checks)


def _packages() -> Iterator[Check]:
    python = platform.python_version()
    yield Check(name="python", state="ok", text=f"{python} at {sys.executable}")
    yield Check(name="package", state="ok", text=_version("vidtok-pipeline") or "not installed")
    for name in _REQUIRED:
        try:
            import_module(name)
        except Exception as error:  # a broken library can raise anything
            fix = f"install it again: pip install --force-reinstall {name}"
            yield Check(name=name, state="broken", text=f"import fails: {one_line(error)}", fix=fix)
        else:
            yield Check(name=name, state="ok", text=_version(name) or "the version is unknown")
    optional = _OPTIONAL | (_OPTIONAL_ON_GPUS if gpus() else {})
    for name, without in optional.items():
        found = _version(name)
        state: State = "ok" if found else "note"
        yield Check(
            name=name, state=state, text=found or "not installed", fix="" if found else without
        )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _ray() -> Check:
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        return Check(name="cluster", state="ok", text="a job starts Ray on this machine")
    try:
        from pipeline.cluster import connect

        with connect() as cluster:
            return Check(name="cluster", state="ok", text=f"Ray {cluster}")
    except Exception as error:  # Ray has no base class for what can go wrong here
        fix = "check the address, and that Ray and Python have the cluster's versions"
        return Check(name="cluster", state="broken", text=one_line(error), fix=fix)


def _gpus() -> Iterator[Check]:
    found = gpus()
    for one in found:
        text = f"{one.name}, {format_bytes(one.free_bytes)} of {format_bytes(one.total_bytes)} free"
        yield Check(name="gpu", state="ok", text=f"{text}, driver {one.driver}")
    if not found:
        yield Check(name="gpu", state="ok", text="none; tokenizers run on CPUs")
    elif not _torch_sees_gpus():
        fix = "install torch for CUDA, of a version that the driver supports"
        yield Check(name="gpu", state="broken", text="torch cannot use them", fix=fix)


def _torch_sees_gpus() -> bool:
    try:
        return bool(import_module("torch").cuda.is_available())
    except Exception:  # its import has been reported
        return False


def _cpu() -> Check:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        text = ""
    features = cpu_features(text)
    shown = ", ".join(features) or "no vector instructions that are known here"
    found = [counted(usable_cores(), "core"), shown]
    with suppress(ImportError):  # of torch, which has been reported
        from vidtok.half import bfloat16_is_fast

        fast = "bf16 is faster than float32" if bfloat16_is_fast(text) else "float32 is the fastest"
        found.append(fast)
    return Check(name="cpu", state="ok", text="; ".join(found))


def _codecs() -> Check:
    try:
        from pipeline.decode.codecs import EXPECTED, ffmpeg_libraries, missing_decoders
    except ImportError as error:
        return Check(name="codecs", state="broken", text=one_line(error), fix="install av again")
    libraries = ", ".join(f"{name} {number}" for name, number in ffmpeg_libraries().items())
    if missing := missing_decoders():
        text = f"no decoder for {', '.join(missing)} in {libraries}"
        return Check(name="codecs", state="broken", text=text, fix="install the wheel of av")
    return Check(name="codecs", state="ok", text=f"{', '.join(EXPECTED)}; {libraries}")


def _memory() -> Check:
    free = free_memory()
    few = free < _LEAST_MEMORY
    fix = "set decode.actors and tokenize.actors to small numbers" if few else ""
    state: State = "note" if few else "ok"
    return Check(name="memory", state=state, text=f"{format_bytes(free)} free", fix=fix)


def _disks() -> Iterator[Check]:
    shared = [(_SHARED_MEMORY, _LEAST_SHARED)] if Path(_SHARED_MEMORY).is_dir() else []
    for folder, least in [(tempfile.gettempdir(), _LEAST_DISK), *shared]:
        free = shutil.disk_usage(folder).free
        text = f"{format_bytes(free)} free in {folder}"
        fix = "free some space; in a container, set --shm-size" if free < least else ""
        yield Check(name="disk", state="note" if fix else "ok", text=text, fix=fix)


def _place(name: str, uri: str, work: Callable[[str], str], what: str) -> Check:
    """Return the check of a source or an output."""
    try:
        return Check(name=name, state="ok", text=f"{uri}: {work(uri)}")
    except (PipelineError, OSError) as error:
        # Errors of settings name their fix.
        fix = "" if isinstance(error, ValueError) else f"check {what}"
        return Check(name=name, state="broken", text=str(error).replace("\n", "; "), fix=fix)


def _read_source(uri: str) -> str:
    units = plan_units(VideoSource(uri=[uri]), images=True)
    first = unit_sources(units[0])[0] if units[0].rows is None else units[0].rows.uri
    with wrong_settings("source.uri", uri), open_file(first) as file:
        file.read(1)
    return f"{counted(len(units), 'unit')}; a byte of the first was read"


def _try_output(uri: str) -> str:
    store = Store(uri)
    with leaving_no_folder(uri):
        require_writable(store, "output.uri", "output.storage_options")
        store.require_put_if_absent()
    return "write, put if absent, read and delete work"
