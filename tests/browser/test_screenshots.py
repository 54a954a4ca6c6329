"""The pictures of the documentation: taken of the real console, written only where GUARD_SCREENSHOTS says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.browser.conftest import House

LIMIT = 200_000
"""Bytes of one picture."""
POLICY = """\
server: {server}
owner: payments-team
default: {sensitivity: internal}
tools:
  note: {sensitivity: sensitive, require: consent}
  wipe: {sensitivity: critical, effects: [destroy]}
"""


def test_list_challenge_and_history_look_as_the_documentation_shows_them(house: House, tmp_path: Path) -> None:
    folder = Path(os.environ.get("GUARD_SCREENSHOTS", tmp_path))
    folder.mkdir(exist_ok=True)
    house.world.write_everywhere(POLICY)
    house.world.wait_for("policy.loaded", count=2)
    ann = house.visitor(name="ann", size=(820, 560))
    taken, _ = house.pause("wipe", {"table": "invoices_2025", "where": "status = 'draft'"})
    ann.page.goto(f"/challenges/{taken}")
    ann.page.get_by_role("button", name="Approve").click()
    ann.page.get_by_text("Your approval counts").wait_for()
    refused, _ = house.pause("note", {"to": "all@example.com", "text": "maintenance tonight"})
    ann.page.goto(f"/challenges/{refused}")
    ann.page.get_by_label("Reason").fill("not during the audit")
    ann.page.get_by_role("button", name="Refuse").click()
    ann.page.get_by_text("The call is refused").wait_for()
    waiting, _ = house.pause("wipe", {"table": "invo\u0456ces", "where": "true"})
    house.pause("note", {"to": "ops@example.com", "text": "disk is full"})
    ann.page.goto("/")
    ann.page.screenshot(path=folder / "console-list.png")
    ann.page.goto(f"/challenges/{waiting}")
    ann.page.screenshot(path=folder / "console-challenge.png", full_page=True)
    ann.page.goto("/history")
    ann.page.screenshot(path=folder / "console-history.png")
    ann.close()
    phone = house.visitor(name="ben", size=(390, 780), dark=True)
    phone.page.goto(f"/challenges/{waiting}")
    phone.page.screenshot(path=folder / "console-phone.png")
    phone.close()
    for name in ("list", "challenge", "history", "phone"):
        size = (folder / f"console-{name}.png").stat().st_size
        assert 5_000 < size < LIMIT, f"{name}: {size} bytes"


@pytest.mark.parametrize("name", ["list", "challenge", "history", "phone"])
def test_the_documentation_has_its_pictures(name: str) -> None:
    picture = Path(__file__).parents[2] / "docs" / "images" / f"console-{name}.png"
    assert picture.read_bytes().startswith(b"\x89PNG")
