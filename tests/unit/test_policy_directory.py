"""The folder of policies: what is in force is right, whole, and never less than the last good set."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from guard.errors import PolicyError
from guard.policy.directory import PolicyDirectory

GIT = (
    "server: git\ntools:\n  git_status: {sensitivity: internal}\n  git_reset: {sensitivity: critical, require: both}\n"
)


class Now:
    """A monotonic clock in the hands of the test."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "tool_policies"
    made.mkdir()
    (made / "git.yaml").write_text(GIT)
    return made


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def served(folder: Path, now: Now) -> PolicyDirectory:
    directory = PolicyDirectory(folder, ["git", "payments"], monotonic=now)
    directory.load()
    return directory


def settle(directory: PolicyDirectory, now: Now) -> tuple[bool, list[str]]:
    """Refresh until a change had its quiet time."""
    first = directory.refresh()
    now.at += 1
    second = directory.refresh()
    return first.changed or second.changed, [str(m) for m in (*first.mistakes, *second.mistakes)]


def test_a_good_folder_is_served_under_the_digest_of_its_files(served: PolicyDirectory, folder: Path) -> None:
    assert set(served.current.policies) == {"git"}
    assert served.undescribed == ("payments",)
    assert len(served.current.revision) == 64
    assert PolicyDirectory(folder).load().revision == served.current.revision
    (folder / "git.yaml").write_text(GIT + "# a remark\n")
    assert PolicyDirectory(folder).load().revision != served.current.revision


def test_a_change_is_taken_once_the_files_are_quiet(served: PolicyDirectory, folder: Path, now: Now) -> None:
    before = served.current
    (folder / "git.yaml").write_text(GIT.replace("internal", "public"))
    assert not served.refresh().changed
    assert served.current is before
    now.at += 1
    assert served.refresh().changed
    assert served.current.revision != before.revision
    assert not served.refresh().changed


def test_a_file_written_bit_by_bit_is_never_served_in_part(served: PolicyDirectory, folder: Path, now: Now) -> None:
    before = served.current
    target = GIT.replace("internal", "public")
    for cut in range(0, len(target), 7):
        (folder / "git.yaml").write_text(target[:cut])
        now.at += 0.3
        served.refresh()
        assert served.current is before
    (folder / "git.yaml").write_text(target)
    assert settle(served, now) == (True, [])


def _replace_by_link(path: Path, target: Path) -> None:
    path.unlink()
    path.symlink_to(target)


def _replace_by_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link_outside(path: Path) -> None:
    (path.parent.parent / "elsewhere.yaml").write_text("server: git\n")
    _replace_by_link(path, path.parent.parent / "elsewhere.yaml")


def _remove_folder(path: Path) -> None:
    path.unlink()
    path.parent.rmdir()


BREAK: dict[str, Callable[[Path], object]] = {
    "broken": lambda path: path.write_text("server: [\n"),
    "vanished": lambda path: path.unlink(),
    "emptied": lambda path: path.write_text(""),
    "renamed": lambda path: path.rename(path.with_suffix(".yml")),
    "link outside": _link_outside,
    "link to nothing": lambda path: _replace_by_link(path, path.parent / "nothing.yaml"),
    "link to itself": lambda path: _replace_by_link(path, path),
    "pipe": _replace_by_pipe,
    "about another server": lambda path: path.write_text(GIT.replace("server: git", "server: gti")),
    "same server twice": lambda path: (path.parent / "again.yaml").write_text("server: git\n"),
    "folder gone": _remove_folder,
    "folder inside": lambda path: (path.parent / "team").mkdir(),
    "stranger": lambda path: (path.parent / "git.YAML").write_text(GIT),
}


@pytest.mark.parametrize("how", BREAK)
def test_what_goes_wrong_keeps_the_last_good_set_and_is_told_once(
    served: PolicyDirectory, folder: Path, now: Now, how: str
) -> None:
    before = served.current
    BREAK[how](folder / "git.yaml")
    changed, told = settle(served, now)
    assert not changed
    assert told
    assert all(line.startswith(str(folder)) for line in told)
    assert served.current is before
    assert [str(m) for m in served.mistakes] == told
    assert settle(served, now) == (False, [])


@pytest.mark.parametrize("how", [way for way in BREAK if way not in {"vanished", "about another server"}])
def test_nothing_wrong_is_served_at_start(folder: Path, how: str) -> None:
    BREAK[how](folder / "git.yaml")
    with pytest.raises(PolicyError) as caught:
        PolicyDirectory(folder).load()
    assert caught.value.line >= 1
    assert caught.value.column >= 1


def test_mending_the_files_brings_them_into_force(served: PolicyDirectory, folder: Path, now: Now) -> None:
    (folder / "git.yaml").write_text("server: git\ntools: {a: {sensitivity: high}}\n")
    assert settle(served, now)[1]
    (folder / "git.yaml").write_text(GIT + "  git_log: {sensitivity: public}\n")
    assert settle(served, now) == (True, [])
    assert served.mistakes == ()


def test_links_within_the_folder_are_followed_as_config_maps_need(tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    (folder / "..2026_11").mkdir(parents=True)
    (folder / "..2026_11/git.yaml").write_text(GIT)
    (folder / "..data").symlink_to("..2026_11")
    (folder / "git.yaml").symlink_to("..data/git.yaml")
    assert set(PolicyDirectory(folder).load().policies) == {"git"}


def test_what_editors_and_people_leave_beside_policies_is_not_read(folder: Path) -> None:
    for name in ("git.yaml~", ".git.yaml.swp", "README.md", ".gitignore"):
        (folder / name).write_text("server: [\n")
    assert set(PolicyDirectory(folder).load().policies) == {"git"}


def test_a_policy_of_fifty_thousand_lines_and_one_of_ten_megabytes_are_told_and_not_served(
    served: PolicyDirectory, folder: Path, now: Now
) -> None:
    before = served.current
    lines = "".join(f"  t{number}: {{sensitivity: public}}\n" for number in range(50_000))
    for text in ("server: git\ntools:\n" + lines, "server: git\n" + "# " + "x" * 10_000_000):
        (folder / "git.yaml").write_text(text)
        changed, (told,) = settle(served, now)
        assert not changed
        assert "bytes; at most" in told
        assert len(told) < 500
        assert served.current is before


def test_ten_thousand_tools_fit_into_one_file(folder: Path) -> None:
    lines = "".join(f"  t{number}: {{sensitivity: public}}\n" for number in range(10_000))
    (folder / "git.yaml").write_text("server: git\ntools:\n" + lines)
    assert len(PolicyDirectory(folder).load().policies["git"].entries["tool"]) == 10_000


def test_a_file_that_vanishes_while_it_is_read_keeps_the_last_good_set(
    served: PolicyDirectory, folder: Path, now: Now, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, listed = served.current, os.listdir

    def vanishing(path: Path) -> list[str]:
        names = listed(path)
        (folder / "git.yaml").unlink(missing_ok=True)
        return names

    (folder / "git.yaml").write_text(GIT.replace("internal", "public"))
    monkeypatch.setattr(os, "listdir", vanishing)
    settle(served, now)
    assert served.current is before
    monkeypatch.undo()
    changed, told = settle(served, now)
    assert not changed
    assert any("vanished" in line for line in told)
    assert served.current is before


def test_reading_leaves_the_collector_as_it_was(folder: Path) -> None:
    frozen = gc.get_freeze_count()
    gc.disable()
    try:
        PolicyDirectory(folder).load()
        assert not gc.isenabled()
    finally:
        gc.enable()
    PolicyDirectory(folder).load()
    assert gc.isenabled()
    assert gc.get_freeze_count() == frozen
