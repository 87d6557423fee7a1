"""What goes wrong inside the job's own processes: put in the place of the real workers.

Every process reads the round's plan from a file, since workers inherit the environment of their
node and not that of the driver. Moments are drawn from the plan's seed and from how often the thing
has happened in the round, which marks on disk count over all processes.
"""

import json
import os
import random
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.decode.child.process import Child
from pipeline.decode.decoder import Decoder
from pipeline.job.collector import Outcome, Place, commit_references
from pipeline.job.workers import DecodeWorker, RayBatch, TokenizeWorker, WorkerSettings
from pipeline.records import Sample, WorkUnit

FOLDER = "CHAOS_FOLDER"
"""Environment variable: the folder with `plan.json` and the marks of the round."""
POISON = "poison"
"""A video of this name kills each decoder that is given it."""


def plan() -> dict[str, Any]:
    """Return the round's plan: its seed, and how often (0 to 1) what goes wrong."""
    values: dict[str, Any] = json.loads((Path(os.environ[FOLDER]) / "plan.json").read_text())
    return values


def strikes(fault: str, most: int) -> bool:
    """Return whether a fault happens now; it happens at most `most` times in a round.

    Which of its calls are hit follows from the seed and the number of the call.
    """
    settings = plan()
    folder = Path(os.environ[FOLDER])
    calls = len(list(folder.glob(f"call-{fault}-*")))
    (folder / f"call-{fault}-{calls}-{os.getpid()}").touch()
    draw = random.Random(f"{settings['seed']}-{fault}-{calls}").random()
    if draw >= settings.get(fault, 0) or len(list(folder.glob(f"hit-{fault}-*"))) >= most:
        return False
    (folder / f"hit-{fault}-{calls}-{os.getpid()}").touch()
    return True


class ChaosDecode(DecodeWorker):
    """Its decoder dies of poison; its clock may jump."""

    def __call__(self, batch: RayBatch) -> Iterator[RayBatch]:
        poison_decoders()
        _let_clock_jump()
        yield from super().__call__(batch)


class ChaosTokenize(TokenizeWorker):
    """Its device has no memory left at some calls. There is no GPU in it: the error is raised."""

    def __call__(self, batch: RayBatch) -> pa.Table:
        _let_memory_end()
        _let_clock_jump()
        return super().__call__(batch)


def chaos_commit(
    units: Sequence[WorkUnit], places: Sequence[Sequence[Place]], settings: WorkerSettings
) -> list[Outcome]:
    """Commit; at some calls the process dies before it, at others with all parts written."""
    if strikes("kill_commit", 3):
        os.kill(os.getpid(), signal.SIGKILL)
    outcomes = commit_references(units, places, settings)
    if strikes("kill_commit", 3):
        os.kill(os.getpid(), signal.SIGKILL)
    return outcomes


def install() -> None:
    """Make the graph of this process use the workers above."""
    from pipeline.job import graph  # it imports Ray Data, which only drivers need

    graph.DecodeWorker = ChaosDecode  # type: ignore[misc]
    graph.TokenizeWorker = ChaosTokenize  # type: ignore[misc]
    graph.commit_references = chaos_commit
    _let_clock_jump()


def poison_decoders() -> None:
    """From now on decoders of this process die of poison, whatever child they take."""
    if hasattr(Decoder, "poisoned"):
        return
    Decoder.poisoned = True  # type: ignore[attr-defined]
    decode, submit = Decoder.decode, Child.submit
    given: list[Sample] = []

    def noted(self: Decoder, sample: Sample, unit: str) -> Any:
        given[:] = [sample]
        return decode(self, sample, unit)

    def lethal(self: Child, job: dict[str, Any], fd: int) -> None:
        poisoned = given[0].video_name.startswith(POISON)
        if poisoned:  # a stopped process decodes no clip before it dies, however busy the machine
            os.kill(self.pid, signal.SIGSTOP)
        submit(self, job, fd)
        if poisoned:
            os.kill(self.pid, signal.SIGSEGV)
            os.kill(self.pid, signal.SIGCONT)

    Decoder.decode = noted  # type: ignore[method-assign]
    Child.submit = lethal  # type: ignore[method-assign]


def _let_memory_end() -> None:
    """From now on some calls of this process's encoders find no memory left."""
    import torch  # here, because workers that decode and commit start without it

    from pipeline.tokenizers.encoder import ClipEncoder

    if hasattr(ClipEncoder, "forgetful"):
        return
    ClipEncoder.forgetful = True  # type: ignore[attr-defined]
    encode = ClipEncoder.__call__

    def out_of_memory(self: ClipEncoder, frames: Any, where: str = "") -> Any:
        if strikes("out_of_memory", 12):
            raise torch.OutOfMemoryError("CUDA out of memory (injected)")
        return encode(self, frames, where)

    ClipEncoder.__call__ = out_of_memory  # type: ignore[method-assign]


def _let_clock_jump() -> None:
    """Let the wall clock of this process jump by up to a day, forth and back, if the plan says."""
    if not (rate := plan().get("clock_jump", 0)) or hasattr(time, "real_time"):
        return
    now = time.time
    time.real_time = now  # type: ignore[attr-defined]
    draws = random.Random(f"{plan()['seed']}-clock")
    offset = [0.0]

    def jumping() -> float:
        if draws.random() < rate:
            offset[0] = draws.uniform(-86400, 86400)
            (Path(os.environ[FOLDER]) / f"hit-clock_jump-{time.monotonic_ns()}").touch()
        return now() + offset[0]

    time.time = jumping
