"""What reaches the operator's screen."""

from __future__ import annotations

import io
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
