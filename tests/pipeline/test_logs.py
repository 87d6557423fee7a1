"""A record of the log is one line, whatever the names and messages in it hold."""

import io
import logging

import pytest

from pipeline.logs import VisibleFormatter, configure_logging, write_lines

HOSTILE = "a\x1b[2J\n\u202eb日"
SHOWN = r"a\x1b[2J\n\u202eb日"


def test_a_record_and_its_traceback() -> None:
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(VisibleFormatter("%(levelname)s %(message)s"))
    log = logging.getLogger("a test of lines")
    log.addHandler(handler)
    log.propagate = False
    try:
        raise ValueError("\x1b[2J")
    except ValueError:
        log.exception("quarantined %s", HOSTILE)
    first, *traceback = out.getvalue().splitlines()
    assert first == f"ERROR quarantined {SHOWN}"
    assert traceback[-1] == r"ValueError: \x1b[2J"
    assert len(traceback) > 2


def test_the_handler_of_a_process_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    for name in ("pipeline", "vidtok"):
        monkeypatch.setattr(logging.getLogger(name), "level", logging.NOTSET)
    configure_logging("INFO")
    [handler] = root.handlers
    assert isinstance(handler.formatter, VisibleFormatter)


def test_lines(capsys: pytest.CaptureFixture[str]) -> None:
    write_lines(["one", HOSTILE])
    assert capsys.readouterr().out == f"one\n{SHOWN}\n"
