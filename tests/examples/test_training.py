"""A generator's training resumes after a stop with the same result, and holds clips out."""

import gc
import os
import pickle
import shutil
import signal
from collections import Counter
from dataclasses import dataclass
from math import isnan
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import distributed, nn

import pipeline
from examples.generators import command, losses
from examples.generators.clips import is_held_out
from examples.generators.command import run
from examples.generators.training import Build
from pipeline.errors import ConfigError, DamagedFile
from pipeline.storage.store import Store
from pipeline.training import Rank
from tests.examples.moving_stripes import write_stripes
from tests.examples.runs import AR, FLOW, settings
from tests.ranks import run_ranks

STEPS = 7


class Stopped(Exception):
    """As a kill is, in one process."""


class Watched:
    """Builds a generator whose training steps are counted, and that may stop in one of them."""

    def __init__(self, build: Build, stop_in: int | None = None) -> None:
        self.build, self.stop_in = build, stop_in
        self.seeds: list[int] = []

    def __call__(self, *given: Any) -> nn.Module:
        generator = self.build(*given)
        generator.register_forward_pre_hook(self._count)
        return generator

    def _count(self, *_: object) -> None:
        if self.steps == self.stop_in:
            raise Stopped
        self.seeds.append(torch.initial_seed())

    @property
    def steps(self) -> int:
        return len(self.seeds)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = str(tmp_path_factory.mktemp("stripes") / "corpus")
    write_stripes(Store(uri))
    return uri


def _draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("examples.generators.training.draw_samples", lambda *_: {})
    monkeypatch.setattr(losses, "curve", lambda *_: b"")


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what a run draws at its end, which takes most of the time of a short one."""
    _draw_nothing(monkeypatch)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "model.pt")


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(
    ("of", "loaders", "save_every", "drawn"),  # an epoch is two steps
    [(AR, 0, 3, True), (AR, 2, 3, False), (FLOW, 0, 3, True), (FLOW, 0, 2, False)],
)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    corpus: str,
    tmp_path: Path,
    of: tuple[str, Build],
    loaders: int,
    save_every: int,
    drawn: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind, build = of
    if not drawn:
        _draw_nothing(monkeypatch)
    changes = {"steps": STEPS, "save_every": save_every, "held_out": 0.3, "loaders": loaders}
    all_steps, rest = Watched(build), Watched(build)
    whole = run(settings(corpus, tmp_path / "whole", **changes), kind, all_steps)
    assert len(set(all_steps.seeds)) == STEPS  # noise of its own for each
    asked = settings(corpus, tmp_path / "stopped", **changes)
    with pytest.raises(Stopped):
        run(asked, kind, Watched(build, stop_in=5))
    again = run(asked, kind, rest)
    assert rest.seeds == all_steps.seeds[5 // save_every * save_every :]
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
    assert again | {"seconds": 0} == whole | {"seconds": 0}
    for name in ("loss.png", "samples.gif", "samples.jpg") if drawn else ():
        assert (tmp_path / "whole" / name).read_bytes() == (
            tmp_path / "stopped" / name
        ).read_bytes()


def test_a_run_that_ended_only_draws_samples_again(corpus: str, tmp_path: Path) -> None:
    asked = settings(corpus, tmp_path, steps=2)
    first = run(asked, *AR)
    (tmp_path / "samples.gif").unlink()
    again = Watched(AR[1])
    assert run(asked, AR[0], again)["nearest"] == first["nearest"]
    assert again.steps == 0
    assert (tmp_path / "samples.gif").exists()


@pytest.mark.usefixtures("no_pictures")
def test_a_run_goes_on_with_the_clips_that_it_began_with(tmp_path: Path) -> None:
    kind, build = AR
    corpus = str(tmp_path / "corpus")
    write_stripes(Store(corpus))
    whole = run(settings(corpus, tmp_path / "whole", steps=4), kind, build)
    asked = settings(corpus, tmp_path / "stopped", steps=4, save_every=1)
    with pytest.raises(Stopped):
        run(asked, kind, Watched(build, stop_in=2))
    write_stripes(Store(corpus), "u-1")
    assert len(pipeline.open(corpus)) == 16
    assert run(asked, kind, build)["version"] == whole["version"]
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


@pytest.mark.parametrize(
    ("of", "changes", "says"),
    [
        (AR, {"width": 32}, "width = 64, this one has 32"),
        (AR, {"steps": 3}, "steps = 2, this one has 3"),
        (FLOW, {}, "kind = indices, this one has latents"),
    ],
)
@pytest.mark.usefixtures("no_pictures")
def test_a_checkpoint_of_other_settings_is_refused(
    corpus: str, tmp_path: Path, of: tuple[str, Build], changes: dict[str, Any], says: str
) -> None:
    run(settings(corpus, tmp_path, steps=2), *AR)
    with pytest.raises(
        ConfigError, match=rf"checkpoint.pt: belongs to a run with {says}; .* --out"
    ):
        run(settings(corpus, tmp_path, **{"steps": 2, **changes}), *of)


@pytest.mark.parametrize("content", [b"", b"PK half of a file", b"text"])
def test_a_damaged_checkpoint_is_named_with_what_to_do(
    corpus: str, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(content)
    says = (
        r"checkpoint\.pt: not a complete checkpoint .*; delete it, and run the same command again"
    )
    with pytest.raises(DamagedFile, match=says):
        run(settings(corpus, tmp_path, steps=2), *AR)


@pytest.mark.usefixtures("no_pictures")
def test_what_is_held_out_moves_no_weight(tmp_path: Path) -> None:
    held = [n for n in range(8) if is_held_out(f"k{n // 2}", 0.3)]
    assert held == [4, 5]
    write_stripes(Store(str(tmp_path / "one")))
    write_stripes(Store(str(tmp_path / "other")), others=held)
    after = {}
    for share in (0.3, 0.0):
        for name in ("one", "other"):
            out = tmp_path / f"{name}-{share}"
            result = run(settings(str(tmp_path / name), out, steps=4, held_out=share), *AR)
            after[name, share] = weights(out)
            assert isnan(result["loss_held_out"]) == (share == 0)
    assert same(after["one", 0.3], after["other", 0.3])
    assert not same(after["one", 0.0], after["other", 0.0])


@pytest.mark.usefixtures("no_pictures")
def test_what_is_learned_by_heart_is_not_what_is_held_out(corpus: str, tmp_path: Path) -> None:
    result = run(settings(corpus, tmp_path, held_out=0.3), *AR)
    assert result["loss_end"] < 0.8 * result["loss_held_out"]


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_who_is_held_out_stays_so_when_more_are(key: str, one: float, other: float) -> None:
    assert is_held_out(key, min(one, other)) <= is_held_out(key, max(one, other))
    assert is_held_out(key, 1)
    assert not is_held_out(key, 0)


def test_the_share_that_is_held_out() -> None:
    held = Counter(is_held_out(f"videos/{n}.mp4", 0.1) for n in range(2000))
    assert 150 < held[True] < 250


def test_steps_without_a_loss_have_no_part_in_a_mean() -> None:
    nan = float("nan")
    assert losses.mean([1.0, nan, 3.0]) == 2
    assert isnan(losses.mean([nan]))
    assert losses.at_end([9.0] * 38 + [1.0, nan]) == 1


@dataclass
class DiesOnce:
    """Builds a generator whose first rank notes its steps, and kills itself in the fourth."""

    build: Build
    folder: Path

    def __call__(self, *given: Any) -> nn.Module:
        generator = self.build(*given)
        generator.register_forward_pre_hook(self._note)
        return generator

    def _note(self, _: nn.Module, given: tuple[torch.Tensor]) -> None:
        if distributed.get_rank() == 0:
            with (self.folder / "steps").open("a") as file:
                file.write(f"{torch.initial_seed()} {given[0].double().sum()}\n")
            if len((self.folder / "steps").read_text().splitlines()) == 4:
                # The third step is done, so the second is saved.
                shutil.copytree(self.folder / "out", self.folder / "copy")
                os.kill(os.getpid(), signal.SIGKILL)


def one_rank(rank: int, work: Any, world: int, result: Path) -> None:
    """Do the work of one rank; the first one leaves the result behind."""
    found = work(Rank(rank, world), print)
    gc.collect()  # as ranks on Ray do
    if rank == 0:
        result.write_bytes(pickle.dumps(found))


@pytest.mark.slow
def test_ranks_go_on_after_a_kill(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray Train starts ranks again after a kill; here the test does, because it takes a fifth."""
    kind, build = FLOW

    def processes(work: Any, tell: Any, *, ranks: int, max_failures: int) -> dict[str, Any]:
        assert max_failures > 0
        given = one_rank, ranks, tmp_path / "meet", work, ranks, tmp_path / "result"
        run_ranks(*given, killed=True)
        run_ranks(*given)
        return pickle.loads((tmp_path / "result").read_bytes())

    monkeypatch.setattr(command, "run_ranks", processes)
    changes = {"steps": 6, "batch": 2, "save_every": 2}
    dies = DiesOnce(build, tmp_path)
    result = run(settings(corpus, tmp_path / "out", workers=2, **changes), kind, dies)
    assert (result["ranks"], result["compared"]) == (2, 8)
    before, after = (lines := (tmp_path / "steps").read_text().splitlines())[:4], lines[4:]
    assert len(set(before)) == 4
    assert len(set(after)) == 4
    assert after[:2] == before[2:]  # of the same clips, with the same noise
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "checkpoint.pt",
        "loss.png",
        "model.pt",
        "samples.gif",
        "samples.jpg",
    }
    # What two ranks began, one can end; it draws nothing.
    _draw_nothing(monkeypatch)
    alone = Watched(build)
    assert run(settings(corpus, tmp_path / "copy", **changes), kind, alone)["ranks"] == 1
    assert alone.steps == 4
