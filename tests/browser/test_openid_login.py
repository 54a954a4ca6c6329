"""Logging in with an OpenID provider in a real Chromium, where the provider is another site."""

from __future__ import annotations

from pathlib import Path

from playwright.sync_api import expect

from tests.browser.conftest import POLICY
from tests.openid_provider import CLIENT, SECRET, provider
from tests.visitors import add_person, chromium
from tests.world import World


def test_a_browser_goes_to_the_provider_and_comes_back_logged_in(tmp_path: Path) -> None:
    (tmp_path / "oidc.secret").write_text(SECRET)
    with provider() as house, chromium() as browser:
        more = (
            f"[console.oidc]\nissuer = '{house.url}'\nclient_id = '{CLIENT}'\n"
            f"client_secret = {{file = '{tmp_path}/oidc.secret'}}\n"
        )
        with World(tmp_path, more=more) as world:
            world.write_everywhere(POLICY)
            guard = world.serve()
            add_person(world, "ann")
            base = f"http://localhost:{guard.config.console.port}"
            page = browser.new_page(base_url=base)
            errors: list[str] = []
            page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
            page.goto("/history")
            page.get_by_role("link", name="Log in with 127.0.0.1").click()
            page.wait_for_url(f"{base}/history")
            expect(page.get_by_text("ann", exact=True)).to_be_visible()
            assert errors == []
            page.get_by_role("button", name="Log out").click()
            house.person = {"sub": "eve"}
            page.goto("/login/oidc")
            expect(page.get_by_text("which is no approver here")).to_be_visible()
            [refused] = world.records("login.refused")
            assert "eve" in refused["reasons"][0]["evidence"]
