"""Logging in to the console with an OpenID provider: who gets in, who does not, and that it never decides anything."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc.jwk import KeySet

from guard.clock import SystemClock
from guard.config import Config, Console, parse
from guard.errors import ConfigError, IdentityError
from guard.identity.lifecycle import Lifecycle
from guard.issuers import Issuer
from guard.model import Json
from guard.openid.flow import Flow
from guard.openid.provider import Provider
from guard.openid.token import Expected, UnknownKeyError, claims
from guard.reasons import Code
from guard.stepup.ceremony import Ceremony
from guard.store.seal import Keyring
from guard.store.sql import SqlStore
from guard.web.application import api
from tests.openid_provider import CLIENT, SECRET, Key, OpenIdProvider, encode, provider, unsigned, with_secret
from tests.unit.test_web import Journal, challenge
from tests.web_services import services

pytestmark = pytest.mark.anyio
CALLBACK = "/login/oidc/callback"
FROM_PROVIDER = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}


BOTH = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


@pytest.fixture
def anyio_backend() -> str:
    """The console is a front; what is below it also runs where a test asks for `BOTH`."""
    return "asyncio"


@dataclass
class House:
    """A console whose approvers may log in with a provider."""

    store: SqlStore
    journal: Journal
    clock: SystemClock
    keyring: Keyring
    provider: OpenIdProvider
    settings: Issuer

    def browser(self) -> Browser:
        """A new browser before a console that has asked the provider nothing yet."""
        config = Config(console=Console(oidc=self.settings))
        flow = Flow(
            Provider(self.settings, SECRET, self.clock),
            seal=self.keyring,
            tickets=self.store.people.tickets,
            clock=self.clock,
            public_url=config.console.public_url,
        )
        house = services(
            store=self.store,
            ledger=self.journal,
            ceremony=Ceremony(self.store, self.journal, self.clock, verifiers={}, cool_down=0),
            clock=self.clock,
            keyring=self.keyring,
            config=config,
            openid=flow,
        )
        return Browser(httpx2.ASGITransport(app=api(house, local=False)))

    def set(self, **changes: object) -> None:
        self.settings = self.settings.model_copy(update=changes)

    @property
    def refused(self) -> list[str]:
        """Why logins were refused, as the ledger says it."""
        return [fields["reasons"][0]["evidence"] for event, fields in self.journal.records if event == "login.refused"]

    @property
    def accepted(self) -> list[Mapping[str, Any]]:
        return [fields for event, fields in self.journal.records if event == "login.accepted"]


class Browser(httpx2.AsyncClient):
    """Keeps the console's cookies."""

    def __init__(self, transport: httpx2.ASGITransport) -> None:
        super().__init__(transport=transport, base_url="http://localhost:7001")
        self.shared = transport

    def another(self) -> Browser:
        """Another browser before the same console."""
        return Browser(self.shared)

    async def begin(self, going: str = "/") -> str:
        """Begin a login and follow it to the provider; where the provider sends the browser back."""
        begun = await self.get("/login/oidc", params={"next": going})
        assert begun.status_code == 303, begun.text
        to = urlsplit(begun.headers["location"])
        with closing(HTTPConnection(to.netloc, timeout=10)) as connection:
            connection.request("GET", f"{to.path}?{to.query}")
            back = connection.getresponse()
        assert back.status == 302
        return (back.getheader("location") or "").removeprefix("http://localhost:7001")

    async def back(self, place: str) -> httpx2.Response:
        """Come back from the provider, as browsers do."""
        return await self.get(place, headers=FROM_PROVIDER)

    async def log_in(self, going: str = "/") -> httpx2.Response:
        return await self.back(await self.begin(going))

    async def inside(self) -> bool:
        return (await self.get("/v1/session")).status_code == 200


@pytest.fixture(scope="module")
def running() -> Iterator[OpenIdProvider]:
    with provider() as found:
        yield found


@pytest.fixture(scope="module")
def walls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SqlStore, Keyring]]:
    """One store for all: what a test leaves in it is in nobody's way."""
    state = tmp_path_factory.mktemp("openid") / "state"
    keyring = Keyring.open(state)
    store = SqlStore.open(state, keyring)
    lifecycle = Lifecycle(store, Journal(), SystemClock())
    lifecycle.add_agent("robot")
    lifecycle.add_approver("ann", groups=["approvers"])
    yield store, keyring
    store.close()


@pytest.fixture
def house(walls: tuple[SqlStore, Keyring], running: OpenIdProvider) -> House:
    running.__dict__.update(OpenIdProvider(url=running.url, keys=[ONE]).__dict__)
    settings = Issuer.model_validate(
        {
            "issuer": running.url,
            "client_id": CLIENT,
            "client_secret": {"env": "UNUSED"},
            "acr": ["urn:strong", "urn:stronger"],
            "timeout": 10,
        }
    )
    store, keyring = walls
    return House(store, Journal(), SystemClock(), keyring, running, settings)


# ------------------------------------------------------------------ getting in


@BOTH
async def test_an_approver_logs_in_with_the_provider_and_goes_where_they_wanted(house: House) -> None:
    browser = house.browser()
    assert "Log in with 127.0.0.1" in (await browser.get("/login")).text
    page = await browser.log_in("/history")
    assert (page.status_code, page.headers["cache-control"]) == (200, "no-store")
    assert 'content="0;url=/history"' in page.text
    assert (await browser.get("/v1/session")).json()["name"] == "ann"
    assert house.accepted == [{"approver": "ann", "kind": "openid"}]
    asked = house.provider.asked
    assert (asked["max_age"], asked["acr_values"], asked["scope"]) == ("3600", "urn:strong urn:stronger", "openid")
    assert asked["redirect_uri"] == f"http://localhost:7001{CALLBACK}"


async def test_the_cookies_of_a_login_are_out_of_reach_of_scripts_and_other_sites(house: House) -> None:
    browser = house.browser()
    begun = (await browser.get("/login/oidc")).headers["set-cookie"]
    assert "HttpOnly" in begun
    assert "SameSite=lax" in begun
    done = (await browser.log_in()).headers.get_list("set-cookie")
    assert any("guard-7001=" in one and "SameSite=strict" in one and "HttpOnly" in one for one in done)
    assert any("guard-oidc-7001=" in one and "Max-Age=0" in one for one in done)


async def test_what_comes_back_is_bound_to_what_was_sent_and_fresh_each_time(house: House) -> None:
    browser = house.browser()
    await browser.begin()
    first = house.provider.asked
    await browser.begin()
    second = house.provider.asked
    for name in ("state", "nonce", "code_challenge"):
        assert len(first[name]) >= 43
        assert first[name] != second[name]


async def test_a_login_is_no_approval(house: House) -> None:
    pending = house.store.challenges.open_or_join(challenge())
    browser = house.browser()
    await browser.log_in()
    token = (await browser.get("/v1/session")).json()["csrf"]
    for kind in ("openid", "approval"):
        answer = await browser.post(
            f"/v1/challenges/{pending.id}/proofs", json={"kind": kind, "as": "ann"}, headers={"guard-csrf": token}
        )
        assert answer.status_code == 403, answer.text
    found = house.store.challenges.get(pending.id)
    assert found is not None
    assert found.proofs == ()


async def test_nobody_is_led_elsewhere_by_a_login(house: House) -> None:
    assert 'content="0;url=/"' in (await house.browser().log_in("//evil.example/")).text


async def test_who_is_logged_in_already_is_not_asked_again(house: House) -> None:
    browser = house.browser()
    await browser.log_in()
    again = await browser.get("/login/oidc", params={"next": "/history"})
    assert (again.status_code, again.headers["location"]) == (303, "/history")


# ------------------------------------------------------------------ whose login it is


async def test_a_claim_says_which_approver_it_is(house: House) -> None:
    house.set(claim="email", people={"ann@example.org": "ann"}, scopes=("openid", "email"))
    house.provider.person = {"sub": "248", "email": "ann@example.org", "email_verified": True}
    browser = house.browser()
    await browser.log_in()
    assert (await browser.get("/v1/session")).json()["name"] == "ann"
    assert house.provider.asked["scope"] == "openid email"


@pytest.mark.parametrize(
    ("settings", "person", "why"),
    [
        ({}, {"sub": "eve\u202e"}, "U+202E"),
        ({"people": {"248": "ann"}}, {"sub": "ann"}, "no approver here"),
        ({"claim": "email"}, {"sub": "1", "email": "ann", "email_verified": False}, "not verified the address"),
        ({"claim": "groups"}, {"sub": "1", "groups": ["ann"]}, "no claim groups"),
    ],
)
async def test_who_is_no_approver_stays_outside_and_on_record(
    house: House, settings: dict[str, Any], person: dict[str, Any], why: str
) -> None:
    house.set(**settings)
    house.provider.person = person
    browser = house.browser()
    page = await browser.log_in()
    assert (page.status_code, await browser.inside()) == (401, False)
    assert why in page.text
    assert [why in said for said in house.refused] == [True]


async def test_a_removed_approver_stays_outside(house: House) -> None:
    lifecycle = Lifecycle(house.store, house.journal, house.clock)
    lifecycle.add_approver("ben", groups=["approvers"])
    lifecycle.remove_approver("ben")
    house.provider.person = {"sub": "ben"}
    browser = house.browser()
    assert (await browser.log_in()).status_code == 401
    assert not await browser.inside()
    assert not house.accepted


# ------------------------------------------------------------------ tokens


def _set(**changes: object) -> Callable[[dict[str, Any]], None]:
    return lambda said: said.update(changes)


def _drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda said: said.pop(name)


NOW = 1_800_000_000
ONE = Key("one")
ISSUER = Issuer.model_validate(
    {
        "issuer": "https://login.example",
        "client_id": CLIENT,
        "client_secret": {"env": "UNUSED"},
        "acr": ["urn:strong"],
    }
)
CLAIMS: Mapping[str, Any] = {
    "iss": "https://login.example",
    "sub": "ann",
    "aud": CLIENT,
    "iat": NOW,
    "exp": NOW + 300,
    "auth_time": NOW - 3000,
    "nonce": "n" * 43,
    "acr": "urn:strong",
}


def checked(token: str, *keys: Key) -> Mapping[str, Json]:
    published = KeySet.import_key_set({"keys": [dict(key.jwk) for key in keys or (ONE,)]})
    return claims(token, published, Expected(ISSUER, "n" * 43), NOW)


def test_a_token_for_this_login_says_who_it_is() -> None:
    assert checked(ONE.sign(CLAIMS))["sub"] == "ann"
    assert checked(ONE.sign({**CLAIMS, "aud": [CLIENT, "another"], "azp": CLIENT}))["sub"] == "ann"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_set(nonce="another"), "nonce"),
        (_drop("nonce"), "nonce"),
        (_set(iss="https://evil.example"), "another provider"),
        (_set(aud="another"), "another client"),
        (_set(aud=[CLIENT, "another"]), "another client"),
        (_set(aud=[CLIENT, "another"], azp="another"), "another client"),
        (_set(azp="another"), "another client"),
        (_drop("aud"), "another client"),
        (_set(exp=NOW - 61), "expired"),
        (_set(exp="tomorrow"), "exp"),
        (_drop("exp"), "exp"),
        (_set(iat=NOW - 3600), "not of now"),
        (_set(iat=NOW + 3600), "not of now"),
        (_set(auth_time=NOW - 3700), "auth_time"),
        (_set(auth_time=NOW + 3600), "auth_time"),
        (_set(auth_time=True), "auth_time"),
        (_drop("auth_time"), "auth_time"),
        (_set(acr="urn:weak"), "acr"),
        (_drop("acr"), "acr"),
        (_set(sub=""), "names nobody"),
        (_drop("sub"), "names nobody"),
    ],
)
def test_a_token_that_is_not_for_this_login_opens_nothing(change: Callable[[dict[str, Any]], None], why: str) -> None:
    said = dict(CLAIMS)
    change(said)
    with pytest.raises(IdentityError, match=why) as caught:
        checked(ONE.sign(said))
    assert caught.value.reason is Code.LOGIN_REFUSED


def _as_public_key(said: Mapping[str, Any], key: Key) -> str:
    pem = key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return with_secret(said, pem, kid=key.kid)


@pytest.mark.parametrize(
    "forge",
    [
        lambda said, _: unsigned(said, alg="none") + ".",
        lambda said, key: unsigned(said, alg="none", kid=key.kid) + ".",
        lambda said, key: with_secret(said, SECRET.encode(), kid=key.kid),
        _as_public_key,
        lambda said, key: Key(key.kid).sign(said),
        lambda said, _: Key("of nobody").sign(said),
        lambda said, key: key.sign(said, alg="ES512"),
        lambda said, key: key.sign(said, crit="exp"),
        lambda said, key: key.sign(said)[:-8] + "AAAAAAAA",
        lambda said, key: ".".join(["", *key.sign(said).split(".")[1:]]),
        lambda said, key: key.sign(said).split(".")[0] + "." + encode(b"[]") + ".x",
        lambda _said, _key: "no token",
    ],
)
def test_a_token_that_the_provider_did_not_sign_opens_nothing(
    forge: Callable[[Mapping[str, Any], Key], str],
) -> None:
    with pytest.raises((IdentityError, UnknownKeyError)):
        checked(forge(CLAIMS, ONE))


def test_a_token_that_names_no_key_is_not_tried_with_each() -> None:
    signed = ONE.sign(CLAIMS, kid="")
    with pytest.raises(UnknownKeyError):
        checked(signed, ONE, Key("two"))


async def test_a_forged_token_lets_nobody_in_and_is_on_record(house: House) -> None:
    house.provider.token = lambda said: unsigned(said, alg="none") + "."
    browser = house.browser()
    page = await browser.log_in()
    assert (page.status_code, await browser.inside()) == (401, False)
    assert ["not signed by the provider" in said for said in house.refused] == [True]
    assert not house.accepted


async def test_the_provider_may_have_new_keys_and_is_not_asked_for_them_without_end(house: House) -> None:
    browser, first = house.browser(), house.provider.keys[0]
    house.provider.keys.append(Key("two"))
    await browser.log_in()
    assert await browser.inside()
    house.provider.keys = [first, Key("three")]
    for _ in range(2):
        assert (await browser.another().log_in()).status_code == 401
    assert house.provider.requests.count("/keys") == 1  # it was asked a moment ago
    clock = house.clock
    later = clock.mono() + 11
    clock.mono = lambda: later  # type: ignore[method-assign]
    assert (await browser.another().log_in()).status_code == 200
    assert house.provider.requests.count("/keys") == 2


async def test_a_provider_may_sign_with_rsa_of_a_decent_length(house: House) -> None:
    house.provider.keys = [Key("short", bits=1024)]
    browser = house.browser()
    assert (await browser.log_in()).status_code == 503
    house.provider.keys = [Key("short", bits=1024), Key("long", bits=2048)]
    assert (await browser.log_in()).status_code == 200


async def test_a_symmetric_key_is_not_taken_from_the_key_set(house: House) -> None:
    shared = b"k" * 32
    published = f'{{"keys":[{{"kty":"oct","kid":"one","k":"{encode(shared)}","alg":"HS256","use":"sig"}}]}}'
    house.provider.answer = lambda path: (200, {}, published.encode()) if path == "/keys" else None
    house.provider.token = lambda said: with_secret(said, shared, kid="one")
    browser = house.browser()
    assert (await browser.log_in()).status_code == 503
    assert not await browser.inside()


# ------------------------------------------------------------------ the answer


async def test_an_answer_counts_once(house: House) -> None:
    browser = house.browser()
    place, cookies = await browser.begin(), dict(browser.cookies)
    assert (await browser.back(place)).status_code == 200
    thief = browser.another()
    thief.cookies.update(cookies)
    again = await thief.back(place)
    assert again.status_code == 401
    assert "used already" in again.text
    assert not await thief.inside()


@pytest.mark.parametrize("spelled", ["{}=", "{}~", "~{}", "{}=="])
async def test_a_used_cookie_in_another_spelling_is_used_all_the_same(spelled: str, house: House) -> None:
    flow = Flow(
        Provider(house.settings, SECRET, house.clock),
        seal=house.keyring,
        tickets=house.store.people.tickets,
        clock=house.clock,
        public_url="http://localhost:8701",
    )
    _, cookie = await flow.begin("/")
    flow.take(cookie)
    with pytest.raises(IdentityError):
        flow.take(spelled.format(cookie))


async def test_a_code_that_was_used_or_stolen_opens_nothing(house: House) -> None:
    browser = house.browser()
    victim, thief = parse_qs(urlsplit(await browser.begin()).query), browser.another()
    own = parse_qs(urlsplit(await thief.begin()).query)
    mixed = {"code": victim["code"][0], "state": own["state"][0], "iss": own["iss"][0]}
    page = await thief.get(CALLBACK, params=mixed, headers=FROM_PROVIDER)
    assert page.status_code == 401
    assert "does not take the code" in page.text
    assert not await thief.inside()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"state": "another"}, "state"),
        ({"state": ""}, "state"),
        ({"iss": "https://evil.example"}, "another provider"),
        ({"iss": None}, "another provider"),
        ({"code": None}, "did not log you in"),
        ({"error": "access_denied"}, "did not log you in"),
    ],
)
async def test_an_answer_that_is_not_the_providers_opens_nothing(
    house: House, change: Mapping[str, str | None], why: str
) -> None:
    browser = house.browser()
    said = {name: values[0] for name, values in parse_qs(urlsplit(await browser.begin()).query).items()} | change
    page = await browser.get(CALLBACK, params={n: v for n, v in said.items() if v is not None}, headers=FROM_PROVIDER)
    assert (page.status_code, await browser.inside()) == (401, False)
    assert why in page.text
    assert house.refused == []  # anybody can send one
    assert "/token" not in house.provider.requests


async def test_an_answer_to_a_login_of_another_browser_opens_nothing(house: House) -> None:
    browser = house.browser()
    place = await browser.begin()
    victim = browser.another()
    page = await victim.back(place)
    assert page.status_code == 401
    assert "not begun in this browser" in page.text
    victim.cookies.set("guard-oidc-7001", "forged")
    assert (await victim.back(place)).status_code == 401
    assert not await victim.inside()


async def test_an_answer_that_says_something_twice_is_refused(house: House) -> None:
    browser = house.browser()
    place = await browser.begin()
    assert (await browser.back(place + "&code=another")).status_code == 400
    assert not await browser.inside()


async def test_a_login_that_took_too_long_is_begun_again(house: House) -> None:
    browser = house.browser()
    place = await browser.begin()
    later = time.time() + 601
    house.clock.now = lambda: later  # type: ignore[method-assign]
    page = await browser.back(place)
    assert page.status_code == 401
    assert "took too long" in page.text


# ------------------------------------------------------------------ a provider that is away, or is not one


def _other(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda said: said.update({name: value})


@pytest.mark.parametrize(
    "change",
    [
        _other("issuer", "https://evil.example"),
        _other("token_endpoint", "http://evil.example/token"),
        _other("authorization_endpoint", "javascript:alert(1)"),
        _other("jwks_uri", None),
        _other("code_challenge_methods_supported", ["plain"]),
    ],
)
async def test_a_provider_that_says_it_is_another_sends_nobody_anywhere(
    house: House, change: Callable[[dict[str, Any]], None]
) -> None:
    house.provider.change_discovery = change
    begun = await house.browser().get("/login/oidc")
    assert begun.status_code == 503
    assert "one-time code" in begun.text
    assert "evil" not in begun.text


@pytest.mark.parametrize(
    "answer",
    [
        (302, {"location": "https://evil.example/"}, b""),
        (500, {}, b""),
        (200, {}, b"[]"),
        (200, {}, b'{"id_token": "a", "id_token": "b"}'),
        (200, {}, b" " * 300_000),
    ],
)
@pytest.mark.parametrize("path", ["/token", "/keys"])
@BOTH
async def test_what_a_provider_never_answers_is_no_login(
    house: House, path: str, answer: tuple[int, Mapping[str, str], bytes]
) -> None:
    house.provider.answer = lambda asked: answer if asked == path else None
    browser = house.browser()
    assert (await browser.log_in()).status_code == 503
    assert not await browser.inside()


@BOTH
async def test_a_provider_that_is_away_or_silent_changes_nothing_for_those_inside(house: House) -> None:
    house.set(timeout=0.2)
    house.provider.hang = threading.Event()
    browser = house.browser()
    assert (await browser.get("/login/oidc")).status_code == 503
    house.provider.hang.set()
    house.set(timeout=10)
    browser = house.browser()
    await browser.log_in()
    house.provider.answer = lambda _: (500, {}, b"")
    assert await browser.inside()
    house.set(issuer="http://127.0.0.1:9")
    assert (await house.browser().get("/login/oidc")).status_code == 503
    assert (await house.browser().get("/login")).status_code == 200


# ------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ('issuer = "http://login.example"', "expected an https URL"),
        ('issuer = "https://login.example/?a=b"', "expected an https URL"),
        ('issuer = "https://login.example"\nscopes = ["email"]', "scopes must hold"),
        ('issuer = "https://login.example"\nmax_age = -1', "max_age"),
    ],
)
def test_a_provider_that_could_not_be_trusted_is_a_mistake_in_the_settings(line: str, why: str) -> None:
    text = f'[console.oidc]\nclient_id = "console"\nclient_secret = {{env = "S"}}\n{line}\n'
    with pytest.raises(ConfigError, match=why):
        parse(text, Path("guard.toml"))


def test_the_secret_and_certificates_are_found_beside_the_settings(tmp_path: Path) -> None:
    text = (
        '[console.oidc]\nissuer = "https://login.example"\nclient_id = "console"\n'
        'client_secret = {file = "oidc.secret"}\nca_file = "ca.pem"\n'
    )
    found = parse(text, tmp_path / "guard.toml").console.oidc
    assert found is not None
    assert (found.client_secret.file, found.ca_file) == (tmp_path / "oidc.secret", tmp_path / "ca.pem")
