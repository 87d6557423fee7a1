"""What is done to a running job from outside. Each fault strikes until the job ends, some times.

A strike waits for its victim to be there, then for a moment that the round's seed draws.
"""

import contextlib
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    from tests.chaos.world import World
    from tests.pipeline.s3 import Environ

_POLL_S = 0.05
_MOMENT_S = 2.0
"""Seconds after its victim was seen within which a strike comes."""


class Blow:
    """One round's faults from outside.

    Args:
        world: what the job runs in.
        driver: the running job.
        draws: the round's random numbers.
        done: counts what was done, by name.
    """

    def __init__(
        self,
        world: "World",
        driver: subprocess.Popen[bytes],
        draws: random.Random,
        done: Counter[str],
    ) -> None:
        self.world, self.driver, self.draws, self.done = world, driver, draws, done

    @property
    def is_running(self) -> bool:
        return self.driver.poll() is None

    def moment(self) -> None:
        """Let a drawn time pass, or the job's end come."""
        until = time.monotonic() + self.draws.uniform(0, _MOMENT_S)
        while self.is_running and time.monotonic() < until:
            time.sleep(_POLL_S)

    def kill_one_of(self, name: str, find: Callable[[], list[psutil.Process]]) -> None:
        """SIGKILL one of the processes that are found, as soon as there are any."""
        while self.is_running and not find():
            time.sleep(_POLL_S)
        self.moment()
        victims = find()
        if self.is_running and victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.draws.choice(victims).kill()
                self.done[name] += 1


def kill_decode_actors(blow: Blow) -> None:
    for _ in range(blow.draws.randint(1, 3)):
        blow.kill_one_of("decode actor", lambda: blow.world.workers("Decode"))


def kill_tokenize_actors(blow: Blow) -> None:
    for _ in range(blow.draws.randint(1, 3)):
        blow.kill_one_of("tokenizer actor", lambda: blow.world.workers("Tokenize"))


def kill_decoders(blow: Blow) -> None:
    for _ in range(blow.draws.randint(1, 4)):
        blow.kill_one_of("decoder child", blow.world.decoders)


def stop_decoders(blow: Blow) -> None:
    """A decoder that stands still, until its deadline ends it."""
    while blow.is_running and not blow.world.decoders():
        time.sleep(_POLL_S)
    blow.moment()
    if blow.is_running and (victims := blow.world.decoders()):
        with contextlib.suppress(psutil.NoSuchProcess):
            blow.draws.choice(victims).suspend()
            blow.done["decoder stopped"] += 1


def kill_driver(blow: Blow) -> None:
    while blow.is_running and not blow.world.workers("Decode"):
        time.sleep(_POLL_S)
    for _ in range(blow.draws.randint(1, 4)):
        blow.moment()
    if blow.is_running:
        blow.driver.kill()
        blow.driver.wait()
        blow.done["driver"] += 1


def kill_node(blow: Blow) -> None:
    while blow.is_running and not blow.world.workers("Decode"):
        time.sleep(_POLL_S)
    blow.moment()
    if blow.is_running:
        blow.world.kill_node()
        blow.done["node"] += 1


def fill_disk(blow: Blow) -> None:
    """Leave no room on the output's disk for a while."""
    filler = Path(blow.world.small_disk) / "filler"
    with contextlib.suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(bytes(1 << 16))
            file.flush()
    blow.done["full disk"] += 1
    while blow.is_running and not blow.world.workers("Tokenize"):
        time.sleep(_POLL_S)
    blow.moment()
    blow.moment()
    filler.unlink()


def nothing(blow: Blow) -> None:
    """All that goes wrong goes wrong inside, or in the store."""


def s3_faults(draws: random.Random, rate: float) -> Callable[["Environ"], str | None]:
    """Return a rule that spoils a share of all requests, each kind where it can happen."""
    anywhere = ["refuse_503", "refuse_503", "reset", "drop_reply", "lose_reply", "stall"]
    kinds = {"PUT": [*anywhere, "lie"], "POST": anywhere, "DELETE": anywhere}
    reading = ["refuse_503", "refuse_503", "reset", "drop_reply", "stall"]

    def fault(environ: "Environ") -> str | None:
        if draws.random() >= rate:
            return None
        return draws.choice(kinds.get(environ["REQUEST_METHOD"], reading))

    return fault
