"""Every example is a story that runs to its end, and breaks off when a part of it is missing."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

pytestmark = [
    pytest.mark.skipif(shutil.which("softhsm2-util") is None, reason="SoftHSM is not installed"),
    pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed"),
    pytest.mark.timeout(180),
]


def start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(EXAMPLES / "git" / "run.py")],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def test_the_git_story_runs_to_its_end() -> None:
    with start() as story:
        told, _ = story.communicate()
    assert story.returncode == 0, told
    assert "the ledger is intact" in told


@pytest.mark.parametrize(
    ("part", "words"),
    [("the signer", ["signer", "run"]), ("the guard", ["run", "git"]), ("the tool server", ["mcp-server-git"])],
    ids=["signer", "guard", "tool server"],
)
def test_the_git_story_breaks_off_when_a_part_of_it_is_stopped(part: str, words: list[str]) -> None:
    with start() as story:
        assert story.stdout is not None
        told = []
        for line in story.stdout:
            told.append(line)
            if "agent | git_status" in line:
                stop(story.pid, words)
                break
        told.append(story.stdout.read())
        story.wait()
    assert story.returncode != 0, f"{part} was stopped: {''.join(told)}"
    assert "the story broke off" in told[-1]


def stop(story: int, words: list[str]) -> None:
    """Kill every process below the story that has all these words in its command line."""
    found = [
        process
        for process in psutil.Process(story).children(recursive=True)
        if all(any(word in part for part in process.cmdline()) for word in words)
    ]
    assert found, f"no process with {words}"
    for process in found:
        process.send_signal(signal.SIGKILL)
