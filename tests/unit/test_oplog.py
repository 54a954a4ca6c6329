"""What reaches the operator's screen."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog

from guard import oplog


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    oplog.to_stderr()
    yield terminal
    structlog.reset_defaults()


def test_a_name_that_an_agent_chose_cannot_draw_on_the_terminal(screen: Terminal) -> None:
    structlog.get_logger().warning("request.refused", path="/v1/\x1b[2J\x9b31m\u202e")
    assert not [part for part in ("\x1b[2J", "\x9b", "\u202e") if part in screen.getvalue()]
    assert "\\x1b[2J" in screen.getvalue()


def test_a_traceback_shows_no_local_variables(screen: Terminal) -> None:
    def fails(secret: str) -> None:
        raise RuntimeError(str(len(secret)))

    try:
        fails("hunter2-" + "Zx9")
    except RuntimeError:
        structlog.get_logger().exception("pipeline.failed")
    assert "RuntimeError" in screen.getvalue()
    assert "hunter2-Zx9" not in screen.getvalue()


def test_a_name_is_escaped_when_no_file_can_be_opened() -> None:
    """Python would load the codec at its first use: the report of missing descriptors ended the guard."""
    program = (
        "import resource\n"
        "from guard import oplog\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "print(oplog.printable('a\\x1bb'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("a\\x1bb\n", "")
