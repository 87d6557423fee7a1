"""What a shell completes, and that it does not wait for torch, Ray or PyAV."""

import os
import subprocess
import sys
from collections.abc import Sequence

import pytest
from typer.testing import CliRunner

from pipeline.commands import app
from pipeline.operations.export.export import FORMATS as TRAINERS
from pipeline.quarantine import REASONS
from vidtok import list_models


def completed(*words: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return what bash is offered for the last word."""
    monkeypatch.setenv("_VIDTOK_PIPELINE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", " ".join(["vidtok-pipeline", *words]))
    monkeypatch.setenv("COMP_CWORD", str(len(words)))
    return CliRunner().invoke(app, prog_name="vidtok-pipeline").output.split()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["tok"], ["tokenize"]),
        (["schema", ""], ["job", "embed", "train", "evaluate"]),
        (["tokenize", "job.yaml", "--ray", ""], ["local", "auto"]),
        (["plan", "job.yaml", "clip.short"], ["clip.short=drop", "clip.short=pad"]),
        (["plan", "job.yaml", "slice=0/2", "clip.stride"], ["clip.stride_s="]),
        (["plan", "job.yaml", "clip.short", "=", ""], ["drop", "pad"]),
        (["plan", "job.yaml", "clip.short", "=", "p"], ["pad"]),
        (["plan", "job.yaml", "clip.whole=t"], ["clip.whole=true"]),
        (["plan", "job.yaml", "tokenizers.12.logvar=f"], ["tokenizers.12.logvar=false"]),
        (["plan", "job.yaml", "tokenizers.1.model", "=", "vid"], list_models()),
        (["embed", "e.yaml", "embedders.0.pooled=f"], ["embedders.0.pooled=false"]),
        (["train", "t.yaml", "stages.3.train=d"], ["stages.3.train=decoder"]),
        (["evaluate", "e.yaml", "chunking"], []),
        (["evaluate", "e.yaml", "device=c"], ["device=cpu", "device=cuda"]),
        (["evaluate", "device", "=", "cu"], ["cuda"]),
        (["export", "out", "--as", ""], list(TRAINERS)),
        (["publish", "out", "--format", "d"], ["delta"]),
        (["retry", "out", "--reason", "tar_"], [r for r in REASONS if r.startswith("tar_")]),
    ],
    ids=lambda value: " ".join(value[-3:]),
)
def test_words_are_offered(
    words: Sequence[str], offered: Sequence[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert completed(*words, monkeypatch=monkeypatch) == offered


def test_a_completion_loads_no_heavy_library() -> None:
    program = (
        "import sys\n"
        "from pipeline.commands import main\n"
        "main([])\n"
        "print({'torch', 'ray', 'av', 'pyarrow', 'matplotlib'} & sys.modules.keys())\n"
    )
    shell = {
        "_VIDTOK_PIPELINE_COMPLETE": "complete_bash",
        "COMP_WORDS": "vidtok-pipeline train t.yaml stages.0.train=",
        "COMP_CWORD": "3",
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **shell},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["stages.0.train=all", "stages.0.train=decoder", "set()"]


def test_one_command_installs_it_for_a_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shellingham.detect_shell", lambda *_: ("bash", "/bin/bash"))
    text = CliRunner().invoke(app, ["--help"]).output
    assert "--install-completion" in text
    script = CliRunner().invoke(app, ["--show-completion", "bash"], prog_name="vidtok-pipeline")
    assert "_VIDTOK_PIPELINE_COMPLETE=complete_bash" in script.output
