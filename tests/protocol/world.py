"""A store in memory, a clock, and actors: a seed decides whose call of the store is next.

Each call is a step. A step can fail before or after it took effect, and its actor can die there, be
cut off from the store for some calls, or stand still for days while others continue. Actors are
threads of which one runs at a time.
"""

import io
import random
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import fsspec
from fsspec.spec import AbstractFileSystem

from tests.protocol.laws import Broken, Laws

HOUR_S = 3600.0
_LIMIT = 20_000
"""Maximum number of steps of one schedule; more is a livelock."""


class Died(BaseException):
    """The actor's process was killed."""


class Refused(OSError):
    """An answer of the store that says no."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code}}


class Actor:
    """One process of the model.

    Attributes:
        nap_in: number of the write before which it stands still for long; 0 if it does not.
        wakes_at: step of the world before which it does nothing.
        cut_off: number of its next calls that get no answer.
    """

    def __init__(self, name: str, body: Callable[[], None], nap_in: int = 0) -> None:
        self.name = name
        self.body = body
        self.nap_in = nap_in
        self.turn = threading.Semaphore(0)
        self.wakes_at = 0
        self.cut_off = 0
        self.dead = False


class World:
    """One schedule.

    Attributes:
        names: draws of the code under test, such as the names of its files.
        clock: seconds.
        files: path → bytes and time of writing.
        steps, faults, ends: number of calls, of faults by kind, of actors by how they ended.
        vacuum_hours: minimum age of the files that vacuum deletes, by its most impatient user.
    """

    def __init__(self, seed: int, rate: float = 0.02) -> None:
        self.draw = random.Random(seed)
        self.names = random.Random(f"names {seed}")
        self.rate = rate
        self.clock = 1.7e9
        self.files: dict[str, tuple[bytes, float]] = {}
        self.laws = Laws(self.files)
        self.steps = 0
        self.faults: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()
        self.trace: list[str] = []
        self.vacuum_hours = 24.0
        self._actors: list[Actor] = []
        self._spawn: Callable[[], Actor | None] = lambda: None
        self._now: Actor | None = None
        self._end = threading.Semaphore(0)

    def run(self, spawn: Callable[[], Actor | None], at_once: int = 4) -> None:
        """Run the actors that `spawn` returns, `at_once` together, until it returns None."""
        global current
        current = self
        self._spawn = spawn
        for _ in range(at_once):
            self._start()
        if self._actors:
            self._give_turn()
            self._end.acquire()
        self._now = None

    def step(self, call: str, path: str, *, writes: bool = False) -> str:
        """Let others go first; return what happens after the call, or raise what happens to it."""
        me = self._now
        if me is None:
            return ""
        if me.dead:
            raise Died
        self.steps += 1
        if self.steps > _LIMIT:
            self.laws.broken = self.laws.broken or "the schedule does not end"
        if self.laws.broken:
            raise Broken(self.laws.broken)
        self.clock += self.draw.expovariate(1 / 20)
        self._yield(me)
        self.trace.append(f"{me.name}: {call} {path}")
        fault = self.draw.random() / self.rate if self.rate else 9.0
        me.nap_in -= writes
        if fault < 0.2 or (writes and me.nap_in == 0):
            self._note("stood still")
            self._sleep(me)
        elif fault < 0.3:
            me.cut_off = self.draw.randint(5, 40)
        elif fault < 0.5:
            return self._note("refused", self._refuse(writes))
        elif fault < 0.6 and writes:
            return self._note("answer lost")
        elif fault < 0.65:
            me.dead = True
            return self._note("killed after" if writes else "killed", None if writes else Died())
        if me.cut_off and self.rate:
            me.cut_off -= 1
            applied = writes and self.draw.random() < 0.5
            return self._note("cut off", None if applied else TimeoutError("no answer"))
        return ""

    def _sleep(self, me: Actor) -> None:
        self.clock += 25 * HOUR_S
        me.wakes_at = self.steps + int(self.draw.paretovariate(0.8) * 50)
        self._yield(me)
        self.clock += 25 * HOUR_S

    def after(self, fault: str) -> None:
        """Raise what happens after a write took effect."""
        if fault == "killed after":
            raise Died
        if fault in ("answer lost", "cut off"):
            raise TimeoutError("no answer")

    def _note(self, kind: str, error: BaseException | None = None) -> str:
        self.faults[kind] += 1
        self.trace.append(f"    {kind}")
        if error is not None:
            raise error
        return kind

    def _refuse(self, writes: bool) -> OSError:
        errors = [
            Refused(503, "SlowDown"),
            TimeoutError("no answer"),
            ConnectionResetError("reset"),
        ]
        if writes:
            errors += [Refused(403, "AccessDenied"), Refused(409, "ConditionalRequestConflict")]
        return self.draw.choice(errors)

    def _start(self) -> None:
        if (actor := self._spawn()) is not None:
            self._actors.append(actor)
            threading.Thread(target=self._play, args=[actor], daemon=True).start()

    def _play(self, actor: Actor) -> None:
        actor.turn.acquire()
        with suppress(Died, Broken):
            actor.body()
        self._actors.remove(actor)
        self._start()
        if self._actors:
            self._give_turn()
        else:
            self._end.release()

    def _give_turn(self) -> Actor:
        awake = [actor for actor in self._actors if actor.wakes_at <= self.steps]
        self._now = self.draw.choice(awake or self._actors)
        self._now.wakes_at = 0
        self._now.turn.release()
        return self._now

    def _yield(self, me: Actor) -> None:
        self._give_turn()
        me.turn.acquire()


current = World(0)


def name_of(uri: str) -> str:
    """Return the path of a file in the store."""
    return uri.removeprefix("protocol://").rstrip("/")


class MemoryStore(AbstractFileSystem):  # type: ignore[misc]
    """The file system of the current world, `protocol://`."""

    protocol = "protocol"
    cachable = False

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        path = name_of(path)
        current.step("info", path)
        if path not in current.files:
            raise FileNotFoundError(path)
        data, modified = current.files[path]
        return {"name": path, "size": len(data), "type": "file", "mtime": modified}

    def find(self, path: str, detail: bool = False, **options: Any) -> Any:
        path = name_of(path)
        current.step("list", path)
        found = {
            name: {"name": name, "size": len(data), "type": "file", "mtime": modified}
            for name, (data, modified) in sorted(current.files.items())
            if name == path or name.startswith(f"{path}/")
        }
        return found if detail else list(found)

    def cat_file(self, path: str, start: Any = None, end: Any = None, **options: Any) -> bytes:
        path = name_of(path)
        current.step("get", path)
        if path not in current.files:
            raise FileNotFoundError(path)
        return current.files[path][0][start:end]

    def open(self, path: str, mode: str = "rb", **options: Any) -> io.BytesIO:
        return io.BytesIO(self.cat_file(path))

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> None:
        path = name_of(path)
        fault = current.step("put", path, writes=True)
        if mode == "create" and path in current.files:
            raise FileExistsError(path)
        is_new = path not in current.files
        current.files[path] = (bytes(value), current.clock)
        current.laws.written(path, is_new=is_new)
        current.after(fault)

    def put_file(self, lpath: str, rpath: str, **options: Any) -> None:
        with open(lpath, "rb") as file:
            self.pipe_file(rpath, file.read())

    def rm_file(self, path: str) -> None:
        path = name_of(path)
        fault = current.step("delete", path, writes=True)
        if current.files.pop(path, None) is None:
            raise FileNotFoundError(path)
        current.laws.deleted(path)
        current.after(fault)


fsspec.register_implementation("protocol", MemoryStore, clobber=True)
