"""People at the console: in a real Chromium with a virtual authenticator, or by bare HTTP.

`Browser` is one Chromium for a whole module; a `Person` is a window of their own with an authenticator of their own.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlencode

import anyio
import pyotp
from playwright.sync_api import Browser, BrowserContext, CDPSession, Page, expect, sync_playwright

from guard.identity.lifecycle import Lifecycle
from tests.guards import PATIENCE, Serving
from tests.world import World

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
"""`make test` sees to it that there is one."""
_FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
_PATIENCE_MS = PATIENCE * 1000
expect.set_options(timeout=_PATIENCE_MS)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium of the system."""
    assert CHROMIUM, "there is no Chromium: Debian and Ubuntu have it as the package chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_FLAGS)
        try:
            yield browser
        finally:
            browser.close()


class Person:
    """Somebody with a browser window and a passkey device of their own."""

    def __init__(self, browser: Browser, base: str, *, size: tuple[int, int] = (1100, 900), dark: bool = False) -> None:
        self.base, self.name = base, ""
        self.context: BrowserContext = browser.new_context(
            base_url=base, viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light"
        )
        self.context.set_default_timeout(_PATIENCE_MS)
        self.page: Page = self.context.new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.device: CDPSession = self.context.new_cdp_session(self.page)
        self.device.send("WebAuthn.enable")
        options = {
            "protocol": "ctap2",
            "transport": "internal",
            "hasResidentKey": True,
            "hasUserVerification": True,
            "isUserVerified": True,
            "automaticPresenceSimulation": True,
        }
        made = self.device.send("WebAuthn.addVirtualAuthenticator", {"options": options})
        self.authenticator = made["authenticatorId"]

    def enrol(self, link: str) -> None:
        """Follow an invitation and make a passkey."""
        self.page.goto(link)
        self.page.get_by_role("button", name="Create the passkey").click()
        self.page.get_by_text("The link is used up").wait_for()

    def log_in(self, going: str = "/") -> None:
        """Log in with the passkey, and arrive where one was going."""
        self.page.goto("/login?" + urlencode({"next": going}))
        self.page.get_by_role("button", name="Use a passkey").click()
        self.page.wait_for_url(self.base + going)

    def cookies(self) -> dict[str, str]:
        """The cookies of the console, for requests made by hand."""
        return {one["name"]: one["value"] for one in self.context.cookies()}

    def csrf(self) -> str:
        """The token in the page."""
        return str(self.page.locator("body").get_attribute("data-csrf"))

    def close(self) -> None:
        """Close the window."""
        self.context.close()


@dataclass(frozen=True)
class Reply:
    """An answer over bare HTTP."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def body(self) -> Any:  # noqa: ANN401 - JSON
        """The JSON in it."""
        return json.loads(self.text)


class Client:
    """A program that talks to the console: no browser, so no help from one either."""

    def __init__(self, guard: Serving, cookies: Mapping[str, str] | None = None, csrf: str = "") -> None:
        self.host, self.port = guard.config.console.host, guard.config.console.port
        self.origin = f"http://localhost:{self.port}"
        self.cookies, self.csrf = dict(cookies or {}), csrf

    def __call__(self, method: str, path: str, body: object = None, **headers: str) -> Reply:
        """Send a request; `body` goes as JSON, unless it is text. Names of headers are spelled with `_`."""
        connection = HTTPConnection(self.host, self.port, timeout=PATIENCE)
        sent = {"host": f"localhost:{self.port}", "origin": self.origin}
        if body is not None and not isinstance(body, str):
            body, sent["content-type"] = json.dumps(body), "application/json"
        if self.cookies:
            sent["cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        if self.csrf:
            sent["guard-csrf"] = self.csrf
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, {name: value for name, value in sent.items() if value})
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, found, answer.read().decode())
        finally:
            connection.close()

    def log_in(self, name: str, code: str) -> Reply:
        """Log in with a code, and keep what came of it."""
        reply = self("POST", "/v1/session", {"as": name, "code": code})
        if reply.status == 201:
            cookie = re.match(r"([^=]+)=([^;]+)", reply.headers["set-cookie"])
            assert cookie is not None
            self.cookies, self.csrf = {cookie[1]: cookie[2]}, reply.body["csrf"]
        return reply


def add_person(world: World, name: str, *groups: str) -> pyotp.TOTP:
    """An approver with a phone."""
    with world.desk() as desk:
        Lifecycle(desk.store, desk.ledger, desk.clock).add_approver(name, groups=groups)
        phone = pyotp.parse_uri(desk.codes.enroll(name, issuer="guard").uri)
    assert isinstance(phone, pyotp.TOTP)
    return phone


def invite(world: World, name: str, *groups: str, lost: bool = False) -> str:
    """An approver with a link to enrol a passkey; the link."""
    with world.desk() as desk:
        Lifecycle(desk.store, desk.ledger, desk.clock).add_approver(name, groups=groups)
        secret = desk.passkeys.invite(name, by="root", lost=lost)
        return f"{desk.config.console.public_url}/enrol#{secret}"


def forget_logins(world: World, name: str) -> None:
    """End every login of a person."""
    with world.desk() as desk:
        desk.store.people.logins.close_all(name)


def cancel(world: World, challenge: str) -> None:
    """Close a challenge undecided."""
    with world.desk() as desk, ThreadPoolExecutor() as elsewhere:  # Playwright's loop runs in this thread
        close = partial(desk.ceremony().cancel, challenge, by="root", because="enough")
        elsewhere.submit(anyio.run, close).result()
