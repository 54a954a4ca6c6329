"""Every example is a story that runs to its end, and breaks off when a part of it is missing."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
GUARD = Path(sys.executable).with_name("guard")
GIT = [str(EXAMPLES / "git" / "run.py")]
IMPORTED_AS = {"pydantic-ai": "pydantic_ai", "openai-agents": "agents", "langchain": "langchain_mcp_adapters"}

pytestmark = pytest.mark.timeout(180)


def needs(command: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(command) is None, reason=f"{command} is not installed")


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "GUARD": str(GUARD)},
    )


def environment(framework: str) -> Path:
    """Where a framework that is not installed beside the guard lives."""
    venvs = os.environ.get("GUARD_EXAMPLE_VENVS")
    if venvs and (folder := Path(venvs, framework)).is_dir():
        return folder
    return pytest.skip(f"{framework} is not installed; GUARD_EXAMPLE_VENVS names a directory of environments")


def python_of(framework: str) -> str:
    """The interpreter that has a framework: this one, or that of its own environment."""
    module = IMPORTED_AS.get(framework)
    if module and importlib.util.find_spec(module):
        return sys.executable
    return str(environment(framework) / "bin" / "python")


def runs_to_its_end(*words: str) -> None:
    with start(*words) as story:
        told, _ = story.communicate()
    assert story.returncode == 0, told
    assert "the ledger is intact" in told


@pytest.mark.parametrize("options", [[], ["--legacy"]], ids=["2026-07-28", "2025-11-25"])
def test_the_story_of_the_official_python_sdk_runs_to_its_end(options: list[str]) -> None:
    runs_to_its_end(sys.executable, str(EXAMPLES / "mcp-sdk" / "run.py"), *options)


@pytest.mark.parametrize("framework", ["mcp-sdk-legacy", "pydantic-ai", "openai-agents", "langchain"])
def test_the_story_of_each_python_framework_runs_to_its_end(framework: str) -> None:
    runs_to_its_end(python_of(framework), str(EXAMPLES / framework / "run.py"))


@needs("node")
def test_the_story_of_the_typescript_sdk_runs_to_its_end(tmp_path: Path) -> None:
    modules = environment("typescript") / "node_modules"
    stage = shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("node_modules"))
    (stage / "typescript" / "node_modules").symlink_to(modules)
    runs_to_its_end("node", str(stage / "typescript" / "run.mjs"))


def test_a_framework_story_breaks_off_when_the_guard_is_stopped() -> None:
    with start(sys.executable, str(EXAMPLES / "mcp-sdk" / "run.py")) as story:
        assert story.stdout is not None
        for line in story.stdout:
            if "agent | refund" in line:
                stop(story.pid, ["guard", "serve"])
                break
        told = story.stdout.read()
        story.wait()
    assert story.returncode != 0, told
    assert "the ledger is intact" not in told


@needs("softhsm2-util")
@needs("git")
def test_the_git_story_runs_to_its_end() -> None:
    runs_to_its_end(sys.executable, *GIT)


@needs("softhsm2-util")
@needs("git")
@pytest.mark.parametrize(
    ("part", "words"),
    [("the signer", ["signer", "run"]), ("the guard", ["run", "git"]), ("the tool server", ["mcp-server-git"])],
    ids=["signer", "guard", "tool server"],
)
def test_the_git_story_breaks_off_when_a_part_of_it_is_stopped(part: str, words: list[str]) -> None:
    with start(sys.executable, *GIT) as story:
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


@needs("softhsm2-util")
def test_the_pipeline_story_runs_to_its_end() -> None:
    runs_to_its_end(sys.executable, str(EXAMPLES / "pipeline" / "run.py"))


def stop(story: int, words: list[str]) -> None:
    """Kill every process below the story that has all these words in its command line."""
    found = []
    for process in psutil.Process(story).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a verb of the story that just ended
            if all(any(word in part for part in process.cmdline()) for word in words):
                process.send_signal(signal.SIGKILL)
                found.append(process)
    assert found, f"no process with {words}"
