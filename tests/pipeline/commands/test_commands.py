"""The command line: where text goes, exit codes, logging, and the scripts in `jobs/`."""

import json
import logging
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from s3fs import S3FileSystem
from typer.testing import CliRunner

from pipeline.commands import app, main
from pipeline.commands.verb import verb
from pipeline.errors import EXIT_CODES, ConfigError, StoreError
from vidtok.tile_plan import NoRoomError

ROOT = Path(__file__).parents[3]
VERBS = [
    *("init", "doctor", "schema"),
    *("tokenize", "plan", "train", "evaluate"),
    *("status", "stats", "report", "show", "diff", "verify"),
    *("retry", "compact", "publish", "export", "vacuum"),
]


@pytest.fixture(autouse=True)
def _levels() -> Iterator[None]:
    yield
    for name in ("pipeline", "vidtok"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_the_help_lists_every_verb_in_its_group() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    places = [text.index(f"│ {word} ") for word in VERBS]
    assert places == sorted(places)
    assert text.index(" Get started ") < places[0] < text.index(" Jobs ") < places[3]
    assert places[6] < text.index(" Inspect ") < places[7]
    assert places[12] < text.index(" Maintain ") < places[13]


@pytest.mark.parametrize("name", VERBS)
def test_the_help_of_a_verb_says_what_its_exit_codes_mean(name: str) -> None:
    done = CliRunner().invoke(app, [name, "--help"])
    assert done.exit_code == 0
    assert "Exit codes: 0" in done.output


def test_the_help_and_the_reference_have_one_table_of_exit_codes() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    shown = " ".join(re.sub("[│╭╰]", " ", text).split())
    page = (ROOT / "docs" / "reference" / "outcomes.md").read_text()
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", page, re.MULTILINE)
    assert {int(code): meaning for code, meaning in rows} == EXIT_CODES
    for code, meaning in EXIT_CODES.items():
        assert f"{code}: {meaning}" in shown


def test_versions_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"vidtok-pipeline {version('vidtok-pipeline')} · ray ")
    assert f" · torch {version('torch')} · " in shown
    assert shown.endswith(f" · python {platform.python_version()}\n")


def test_a_verb_without_arguments_shows_its_help() -> None:
    done = CliRunner().invoke(app, ["tokenize"])
    assert done.exit_code == 2
    assert "Usage: " in done.output


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["status", "EMPTY"], 2, "error: EMPTY: "),
        (["report", "EMPTY", "--pairs", "1"], 2, "error: --pairs: needs --html FILE"),
        (["status"], 2, "Usage: "),
        (["nothing"], 2, "No such command"),
        (["tokenize", "EMPTY/none.yaml"], 2, "error: EMPTY/none.yaml: cannot be read: No such"),
    ],
)
def test_an_error_goes_to_stderr(
    arguments: Sequence[str],
    code: int,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([word.replace("EMPTY", str(tmp_path)) for word in arguments]) == code
    shown = capsys.readouterr()
    assert says.replace("EMPTY", str(tmp_path)) in shown.err + shown.out
    if says.startswith("error"):
        assert shown.out == ""
        assert shown.err.count("\n") == 1


def test_what_a_verb_raises_decides_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    raised: list[BaseException] = []

    @verb("Test", name="fail-for-a-test", advice="try again")
    def fail(word: str) -> int:
        raise raised.pop()

    def outcome(error: BaseException) -> tuple[int, str]:
        raised.append(error)
        return main(["fail-for-a-test", "x"]), capsys.readouterr().err

    try:
        assert outcome(ConfigError("x = 1: wrong")) == (2, "error: x = 1: wrong\n")
        assert outcome(StoreError("s3: down")) == (1, "error: s3: down\ntry again\n")
        for full in (NoRoomError, torch.OutOfMemoryError):
            assert outcome(full("a clip:\nneeds 9 MiB")) == (
                1,
                "error: a clip: needs 9 MiB\ntry again\n",
            )
        assert outcome(KeyboardInterrupt()) == (130, "interrupted; try again\n")
        for fault in (ZeroDivisionError, RuntimeError):
            with pytest.raises(fault):
                outcome(fault())
    finally:
        app.registered_commands.pop()


@pytest.mark.parametrize(
    ("options", "level"),
    [
        ([], "WARNING"),
        (["-v"], "INFO"),
        (["--verbose"], "INFO"),
        (["--log-level", "debug"], "DEBUG"),
        (["-v", "--log-level", "error"], "ERROR"),
    ],
)
def test_options_before_the_verb_set_the_level_of_the_log(
    options: list[str], level: str, tmp_path: Path
) -> None:
    main([*options, "status", str(tmp_path)])
    assert logging.getLogger("pipeline").level == logging.getLevelName(level)
    assert logging.getLogger("vidtok").level == logging.getLevelName(level)


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("tokenize_corpus.py", ["job.yaml", "clip.framse=17"]),
        ("train_tokenizer.py", ["job.yaml", "clip.framse=17"]),
        ("evaluate_tokenizer.py", ["clip.framse=17"]),
    ],
)
def test_a_script_runs_from_any_folder_without_an_installation(
    script: str, arguments: list[str], tmp_path: Path
) -> None:
    """Isolated from the site's packages' path, it finds the package beside it."""
    (tmp_path / "job.yaml").write_text(json.dumps({"clip": {}}))
    done = subprocess.run(
        [sys.executable, str(ROOT / "jobs" / script), *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PATH": ""},
    )
    assert done.returncode == 2
    assert "framse: no such key" in done.stderr or "clip: no such key" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_script_says_in_a_line_what_its_python_lacks(tmp_path: Path) -> None:
    script = ROOT / "jobs/tokenize_corpus.py"
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(script), "job.yaml"],  # -S: without installed packages
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert f"error: {sys.executable} has no module " in done.stderr
    assert "infra/runtime_env.yaml" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_typing_error_is_answered_without_torch_ray_and_av(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text("clip: {framse: 17}")
    program = (
        "import sys\n"
        "from pipeline.commands import main\n"
        "codes = [main([verb, sys.argv[1]]) for verb in ('tokenize', 'plan', 'evaluate')]\n"
        "print(codes, {'torch', 'ray', 'av'} & sys.modules.keys())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "job.yaml")],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert "clip.framse: no such key; did you mean frames?" in done.stderr
    assert done.stdout == "[2, 2, 2] set()\n"


@pytest.mark.parametrize("address", [["--ray", "10.0.0.1:6379"], ["--ray=auto"], []])
def test_the_ray_of_the_command_line_is_that_of_the_job(
    address: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []

    def run(*_: object) -> NoReturn:
        found.append(os.environ["RAY_ADDRESS"])
        raise ConfigError("enough")

    monkeypatch.setattr("pipeline.job.driver.run", run)
    monkeypatch.setenv("RAY_ADDRESS", "of the environment")
    config = str(ROOT / "pipeline/demo/job.yaml")
    assert main(["tokenize", config, f"output.uri={tmp_path}", *address]) == 2
    assert found == [(address or ["of the environment"])[-1].removeprefix("--ray=")]


@pytest.fixture
def no_file_systems() -> Iterator[None]:
    """Neither this test nor a later one gets a file system that knows another environment."""
    S3FileSystem.clear_instance_cache()
    yield
    S3FileSystem.clear_instance_cache()


@pytest.mark.usefixtures("no_file_systems")
def test_missing_credentials_are_a_wrong_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "PROFILE", "SESSION_TOKEN"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    for name in ("SHARED_CREDENTIALS_FILE", "CONFIG_FILE"):
        monkeypatch.setenv(f"AWS_{name}", "/nowhere")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    assert main(["status", "s3://bucket-of-nobody/x"]) == 2
    shown = capsys.readouterr().err
    assert "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE" in shown
    assert shown.count("\n") == 1
