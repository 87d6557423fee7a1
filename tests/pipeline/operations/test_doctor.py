"""A doctor names what is broken and what to do, and leaves nothing behind."""

import json
from pathlib import Path

import pytest

from pipeline.commands import main
from pipeline.operations.doctor import Check, Diagnosis, examine
from pipeline.operations.machine import gpus
from tests.assets import VIDEOS


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def named(found: Diagnosis, name: str) -> list[Check]:
    return [one for one in found.checks if one.name == name]


def test_a_machine_on_which_the_tests_run_is_sound(tmp_path: Path) -> None:
    output = tmp_path / "new" / "corpus"
    found = examine(str(VIDEOS / "*.mp4"), str(output))
    assert [one for one in found.checks if one.state == "broken"] == []
    assert found.exit_code == 0
    names = {one.name for one in found.checks}
    assert names >= {"python", "torch", "ray", "av", "cluster", "gpu", "cpu", "codecs", "memory"}
    assert ("triton" in names) == bool(gpus()), "only GPUs use it"
    [codecs] = named(found, "codecs")
    assert "h264, hevc, av1, vp9, prores; " in codecs.text
    assert "libavcodec " in codecs.text
    [source] = named(found, "source")
    assert source.text.endswith("1 unit; a byte of the first was read")
    [wrote] = named(found, "output")
    assert wrote.text.endswith("write, put if absent, read and delete work")
    assert not output.parent.exists()


def test_what_is_broken_is_one_line_with_a_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    monkeypatch.setenv("PATH", str(tmp_path))
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho NVIDIA H200, 143771, 143000, 570.1\n")
    program.chmod(0o755)
    (tmp_path / "file").write_text("")
    found = examine(str(tmp_path / "none"), str(tmp_path / "file" / "corpus"))
    assert found.exit_code == 1
    broken = [one for one in found.checks if one.state == "broken"]
    assert {one.name for one in broken} >= {"cluster", "source", "output"}
    for one in broken:
        assert "\n" not in str(one)
        assert one.fix or "; " in one.text or "does not exist" in one.text
    card, *lost = named(found, "gpu")
    assert "NVIDIA H200, " in card.text
    assert card.text.endswith("driver 570.1")
    import torch

    assert len(lost) == (not torch.cuda.is_available())


def test_a_hidden_character_does_not_reach_the_terminal() -> None:
    check = Check(name="source", state="broken", text="a\x1b[31m\nb", fix="c")
    assert str(check) == "broken  source    a\\x1b[31m\\nb; c"


def test_the_verb_needs_no_arguments_and_prints_one_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor"]) == 0
    assert "ok      python    3." in capsys.readouterr().out
    assert main(["doctor", "--source", str(tmp_path), "--json"]) == 1
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert checks[-1]["name"] == "source"
    assert checks[-1]["state"] == "broken"
    assert "is an empty folder" in checks[-1]["text"]
