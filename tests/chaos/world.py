"""Where chaos happens: a cluster of two nodes, an S3 server, a corpus, and what comes out of it."""

import contextlib
import json
import os
import random
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from ray.cluster_utils import Cluster

from pipeline.dataset.log.manifest import read_manifest
from pipeline.storage.store import Store
from tests.bare_ray import bare_nodes
from tests.chaos.saboteurs import FOLDER, POISON
from tests.forked_workers import forked
from tests.jobs.conftest import ROOT, VIDEOS, committed_rows, job, pack, sound_videos
from tests.pipeline.decode.synthetic import encode
from tests.pipeline.s3 import CREDENTIALS, S3Server

_NODE = {"num_cpus": 4, "object_store_memory": 150_000_000}
_SMALL_DISK_BYTES = 1 << 20
_MEMORY_MB = 64
_TIMEOUT_S = 10.0


class World:
    """A context manager; one round at a time. `reference` is what an undisturbed run makes.

    Args:
        few: whether the corpus is small: four sound videos and the one that kills its decoder.

    Attributes:
        small_disk: a file system of its own with little room, or None where none may be mounted.
        reference: rows, sorted, as the stages make them one after another, without Ray.
        quarantine: of the reference.
    """

    def __init__(self, *, few: bool = False) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="chaos-"))
        self.small_disk = _mount(self.folder / "small")
        self._environment = {
            **os.environ,
            **CREDENTIALS,
            FOLDER: str(self.folder / "round"),
            "PYTHONPATH": str(ROOT),
            # Else jobs that are started elsewhere on this machine meanwhile join this cluster.
            "RAY_TMPDIR": str(self.folder),
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_prestart_worker_first_driver": "0",
            "RAY_idle_worker_killing_time_threshold_ms": "600000",
            "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
            "RAY_BACKEND_LOG_LEVEL": "fatal",
            "OMP_NUM_THREADS": "1",
        }
        os.environ.update(self._environment)  # nodes are started from here, and take it over
        self.s3 = S3Server()
        self.s3_options = {
            **self.s3.storage_options,
            # Patient as in real life, and quick to see that no answer comes.
            "config_kwargs": {"retries": {"max_attempts": 3}, "read_timeout": 2},
        }
        self.tars = pack(self.folder / "tars", _videos(self.folder / "made", few), per_tar=2)
        with bare_nodes():
            self._cluster = Cluster(initialize_head=True, head_node_args=_NODE)
            self._node = self._cluster.add_node(**_NODE)

    def __enter__(self) -> Self:
        output = Store(str(self.folder / "reference"))
        command = forked("tests/chaos/reference.py", self.config(output, actors=1))
        subprocess.run(command, env=self._environment, check=True)
        self.reference, self.quarantine = committed_rows(output), quarantine_rows(output)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cluster.shutdown()
        self.s3.close()
        if self.small_disk is not None:
            subprocess.run(["umount", "--lazy", self.small_disk], check=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def begin_round(self, plan: Mapping[str, Any]) -> None:
        """Tell the saboteurs what goes wrong from now on."""
        folder = self.folder / "round"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "plan.json").write_text(json.dumps(plan))

    def hits(self) -> Counter[str]:
        """Return how often saboteurs struck in this round, by fault."""
        marks = (self.folder / "round").glob("hit-*")
        return Counter(mark.name.split("-")[1].replace("_", " ") for mark in marks)

    def config(self, output: Store, source: Store | None = None, actors: int = 2) -> Path:
        """Write the settings of a job over the corpus; return their path."""
        config = job(
            self.tars if source is None else f"{source.uri}/*.tar",
            output.uri,
            source__storage_options={} if source is None else dict(source.storage_options),
            output__storage_options=dict(output.storage_options),
            decode__actors=actors,
            decode__timeout_s=_TIMEOUT_S,
            decode__memory_mb=_MEMORY_MB,
            tokenize__actors=actors,
        )
        path = self.folder / "job.yaml"
        path.write_text(json.dumps(config.model_dump(mode="json")))
        return path

    def start(self, settings: Path) -> subprocess.Popen[bytes]:
        """Start a driver on the head node."""
        log = self.folder / "driver.log"
        with log.open("wb") as file:
            return subprocess.Popen(
                forked("tests/chaos/driver.py", settings),
                env={**self._environment, "RAY_ADDRESS": self._cluster.address},
                stdout=file,
                stderr=subprocess.STDOUT,
            )

    def said(self) -> str:
        """Return what the last driver printed."""
        return (self.folder / "driver.log").read_text(errors="replace")

    def workers(self, name: str) -> list[psutil.Process]:
        """Return the actors whose class has a name like this."""
        return _processes(f"(Chaos{name}")

    def decoders(self) -> list[psutil.Process]:
        """Return the decoders' child processes."""
        return _processes("pipeline.decode.child.main")

    def kill_node(self) -> None:
        """SIGKILL the second node, raylet, object store and workers, and bring up another."""
        self._cluster.remove_node(self._node, allow_graceful=False)
        with bare_nodes():
            self._node = self._cluster.add_node(**_NODE)


def quarantine_rows(output: Store) -> pa.Table:
    """Return what a dataset's quarantine says of each sample and clip, sorted."""
    tables = []
    for part in read_manifest(output).quarantine_parts():
        with output.open(part.path) as file:
            tables.append(pq.read_table(file))
    whole = pa.concat_tables(tables).select(["key", "clip_index", "stage", "reason"])
    return whole.sort_by([("key", "ascending"), ("clip_index", "ascending")])


def _videos(folder: Path, few: bool) -> list[Path]:
    """Real videos, sound and broken; one that kills its decoder, and one that takes its memory."""
    folder.mkdir()
    poison = folder / f"{POISON}.mp4"
    shutil.copy(VIDEOS / "hiker_tiny.mp4", poison)
    if few:
        return [*sound_videos()[:4], poison]
    draws = np.random.default_rng(0)
    large = [
        draws.integers(0, 256, (2160, 3840), np.uint8),
        *[np.full((1080, 1920), 128, "u1")] * 2,
    ]
    hog = folder / "hog.mp4"
    hog.write_bytes(
        encode(
            [large] * 5,
            pix_fmt="yuv420p",
            codec="libx264",
            container="mp4",
            time_base=Fraction(1, 25),
            options={"preset": "ultrafast"},
        )
    )
    broken = sorted(path for path in (VIDEOS / "broken").iterdir() if path.suffix == ".mp4")[:2]
    videos = [*sound_videos(), poison, hog, *broken]
    random.Random(0).shuffle(videos)
    return videos


def _processes(text: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if text in " ".join(process.cmdline()):
                found.append(process)
    return found


def _mount(folder: Path) -> Path | None:
    folder.mkdir()
    options = f"size={_SMALL_DISK_BYTES}"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "chaos", folder], capture_output=True
    )
    return folder if done.returncode == 0 else None
