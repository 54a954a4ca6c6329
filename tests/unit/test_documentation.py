"""What the documentation shows works as shown."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from guard.config import Config
from guard.lab import cases
from guard.policy.directory import PolicyDirectory

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def examples(language: str) -> list[tuple[str, str]]:
    """Every code block of a language, with the page it is on."""
    pattern = re.compile(rf"^ *```{language}\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
    return [(page.name, block) for page in PAGES for block in pattern.findall(page.read_text())]


def test_the_reference_is_what_the_code_says() -> None:
    command = [sys.executable, ROOT / "tools" / "reference.py", "--check"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("page", "text"), [one for one in examples("yaml") if "\ncases:" in one[1]])
def test_tests_of_policies_in_the_documentation_can_be_read(page: str, text: str) -> None:
    found, mistakes = cases.read(text.encode(), page)
    assert found, mistakes


@pytest.mark.parametrize(("page", "text"), [one for one in examples("yaml") if "\ncases:" not in one[1]])
def test_policies_in_the_documentation_load(page: str, text: str, tmp_path: Path) -> None:
    (tmp_path / f"{yaml.safe_load(text)['server']}.yaml").write_text(text)
    assert PolicyDirectory(tmp_path).load().policies, page


@pytest.mark.parametrize(("page", "text"), examples("toml"))
def test_settings_in_the_documentation_are_settings(page: str, text: str) -> None:
    assert Config.model_validate(tomllib.loads(text)), page


@pytest.mark.parametrize(("page", "text"), examples("python"))
def test_programs_in_the_documentation_are_programs(page: str, text: str) -> None:
    assert ast.parse(text).body, page


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page() -> None:
    navigation = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]

    def files(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        if isinstance(entry, dict):
            return [file for value in entry.values() for file in files(value)]
        assert isinstance(entry, list)
        return [file for value in entry for file in files(value)]

    assert sorted(files(navigation)) == sorted(str(page.relative_to(ROOT / "docs")) for page in PAGES)


def test_every_link_between_pages_leads_somewhere() -> None:
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page}: {link}"


def test_every_dependency_has_its_licence_and_reason_on_record() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    names = {re.split(r"[<>=;\s\[]", one)[0] for one in needed}
    recorded = set(re.findall(r"^\| ([a-z0-9-]+)", (ROOT / "docs/adr/0002-dependencies.md").read_text(), re.MULTILINE))
    assert names == recorded
