"""Attacks on the console, its logins and its API, over the real listener. Ids are those of the attack corpus."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import quote

import pyotp
import pytest

from guard.identity.lifecycle import Lifecycle
from tests.guards import Serving
from tests.visitors import Client, add_person, cancel
from tests.world import World

POLICY = """\
server: {server}
owner: journal-team
tools:
  wipe: {sensitivity: sensitive, require: consent}
  slow: {sensitivity: sensitive, require: two_people}
  say: {sensitivity: sensitive, require: consent}
"""
SECRET = "prod-database-secret"


@dataclass
class Keep:
    """A running guard with people who logged in."""

    world: World
    guard: Serving
    phones: dict[str, pyotp.TOTP]
    number: int = 0

    def pause(self, tool: str = "wipe") -> str:
        self.number += 1
        paused = self.guard.call(tool, {"n": self.number, "path": SECRET, "seconds": 0})
        assert paused.challenge, paused.text
        return paused.challenge

    def person(self, *groups: str) -> tuple[str, Client]:
        """Somebody new, logged in; their next code is for deciding."""
        self.number += 1
        name = f"p{self.number}"
        self.phones[name] = add_person(self.world, name, *groups)
        client = Client(self.guard)
        assert client.log_in(name, self.phones[name].now()).status == 201
        return name, client

    def next_code(self, name: str) -> str:
        return self.phones[name].at(time.time() + 30)

    def view(self, client: Client, challenge: str) -> str:
        return str(client("GET", f"/v1/challenges/{challenge}/canonical").body["view_digest"])

    def evidence(self, name: str, client: Client, challenge: str) -> Mapping[str, str]:
        return {"kind": "approval", "code": self.next_code(name), "view_digest": self.view(client, challenge)}

    def state(self, challenge: str) -> str:
        with self.world.desk() as desk:
            found = desk.store.challenges.get(challenge)
        assert found is not None
        return found.state.value


@pytest.fixture(scope="module")
def keep(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keep]:
    with World(tmp_path_factory.mktemp("keep")) as world:
        world.write_everywhere(POLICY)
        yield Keep(world, world.serve(), {})


# ------------------------------------------------------------------ other sites (CON-001, 003, 004, 007, 009, 011)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost.evil.example"},
        {"origin": "", "sec_fetch_site": "cross-site"},
        {"origin": "", "sec_fetch_site": "same-site"},
        {"origin": "", "sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate", "sec_fetch_dest": "document"},
    ],
    ids=str,
)
def test_con_001_another_site_decides_nothing_with_a_victims_cookie(headers: dict[str, str], keep: Keep) -> None:
    challenge = keep.pause()
    name, client = keep.person()
    evidence = keep.evidence(name, client, challenge)
    assert client("POST", f"/v1/challenges/{challenge}/proofs", evidence, **headers).status == 403
    form = f"csrf={client.csrf}&decision=approve&code={evidence['code']}&view={evidence['view_digest']}"
    kind = {"content_type": "application/x-www-form-urlencoded"}
    assert client("POST", f"/challenges/{challenge}/vote", form, **kind, **headers).status == 403
    assert keep.state(challenge) == "pending"


def test_con_001_a_cookie_without_the_logins_token_changes_nothing(keep: Keep) -> None:
    challenge = keep.pause()
    name, client = keep.person()
    evidence, token = keep.evidence(name, client, challenge), client.csrf
    _, other = keep.person()
    for wrong in ("", "x", other.csrf):
        client.csrf = wrong
        for path, body in (
            (f"/v1/challenges/{challenge}/proofs", evidence),
            (f"/v1/challenges/{challenge}/deny", evidence),
            (f"/v1/challenges/{challenge}/cancel", {}),
            (f"/v1/challenges/{challenge}/assertion", {"decision": "approve", "view_digest": "x"}),
            (f"/v1/grants/g{challenge[1:]}/revoke", None),
        ):
            assert client("POST", path, body).status == 403
        assert client("DELETE", "/v1/session").status == 403
        form = f"csrf={wrong}&decision=approve&code={evidence['code']}&view={evidence['view_digest']}"
        answer = client("POST", f"/challenges/{challenge}/vote", form, content_type="application/x-www-form-urlencoded")
        assert answer.status == 401
    client.csrf = token
    assert client("POST", f"/v1/challenges/{challenge}/proofs", evidence).body["state"] == "satisfied"


@pytest.mark.parametrize(
    "path", ["/", "/login", "/history", "/challenges/{id}", "/challenges/{id}/view", "/v1/challenges"]
)
def test_con_003_and_011_nothing_can_be_framed_or_is_kept_by_a_cache(path: str, keep: Keep) -> None:
    challenge = keep.pause()
    _, client = keep.person()
    headers = client("GET", path.replace("{id}", challenge)).headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7001", "127.0.0.1.evil.example", "localhost, evil.example"]
)
def test_con_004_a_name_that_was_rebound_gets_no_page_and_no_data(host: str, keep: Keep) -> None:
    _, client = keep.person()
    for path in ("/", "/v1/challenges", "/static/console.js", "/healthz"):
        assert client("GET", path, host=host).status == 421


@pytest.mark.parametrize(
    "target",
    [
        *("//evil.example/", "https://evil.example/", "/\\evil.example", "/%2f/evil.example", "javascript:alert(1)"),
        *("/history/../..//evil.example", "/\t/evil.example", "@evil.example", "/challenges/c_" + "A" * 22 + "@evil"),
    ],
)
def test_con_007_a_login_leads_to_no_other_site(target: str, keep: Keep) -> None:
    name, client = keep.person()
    assert client("GET", f"/login?next={quote(target, safe='')}").headers["location"] == "/"
    form = f"name={name}&code={keep.next_code(name)}&next={quote(target, safe='')}"
    answer = Client(keep.guard)("POST", "/login", form, content_type="application/x-www-form-urlencoded")
    assert (answer.status, answer.headers["location"]) == (303, "/")


def test_con_008_a_login_has_a_secret_of_its_own_in_a_cookie_no_script_and_no_other_site_gets(keep: Keep) -> None:
    name, _ = keep.person()
    fixed = Client(keep.guard, {f"guard-{keep.guard.config.console.port}": "fixed"})
    answer = fixed.log_in(name, keep.next_code(name))
    cookie = answer.headers["set-cookie"]
    assert "fixed" not in cookie
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(re.split(r"; ", cookie))
    assert Client(keep.guard, {f"guard-{keep.guard.config.console.port}": "fixed"})("GET", "/v1/session").status == 401
    used = dict(fixed.cookies)
    assert fixed("DELETE", "/v1/session").status == 204
    assert Client(keep.guard, used)("GET", "/v1/session").status == 401


def test_con_009_the_event_stream_is_for_those_who_are_logged_in_here(keep: Keep) -> None:
    _, client = keep.person()
    assert Client(keep.guard)("GET", "/v1/events").status == 401
    assert client("GET", "/v1/events", origin="http://evil.example").status == 403
    assert client("GET", "/v1/events", origin="", sec_fetch_site="cross-site").status == 403
    socket = {"connection": "Upgrade", "upgrade": "websocket", "sec_websocket_version": "13"}
    assert client("GET", "/v1/events", **socket).status == 501


# ------------------------------------------------------------------ other people (CON-010, APR-016 to 018, 023, 025)


def test_con_010_another_teams_challenge_does_not_exist(keep: Keep) -> None:
    challenge = keep.pause()
    name, client = keep.person("team-a")
    unknown = "c_" + "A" * 22
    for path in ("", "/canonical", "/view"):
        for prefix in ("/v1/challenges/", "/challenges/"):
            if (prefix, path) in {("/challenges/", ""), ("/challenges/", "/canonical"), ("/v1/challenges/", "/view")}:
                continue
            found, missing = (client("GET", f"{prefix}{one}{path}") for one in (challenge, unknown))
            assert found.status == missing.status == 404
            assert found.text.replace(challenge, "") == missing.text.replace(unknown, "")
    body = {"kind": "approval", "code": keep.next_code(name), "view_digest": "0" * 64}
    for path in ("proofs", "deny", "cancel"):
        assert client("POST", f"/v1/challenges/{challenge}/{path}", body).status == 404
    assert challenge not in client("GET", "/v1/challenges").text
    page = client("GET", f"/challenges/{challenge}").text
    assert SECRET not in page
    assert "wipe" not in page
    assert keep.state(challenge) == "pending"


def test_apr_016_and_017_neither_the_owner_nor_one_person_twice_makes_it_two(keep: Keep) -> None:
    challenge = keep.pause("slow")
    keep.phones["oli"] = add_person(keep.world, "oli")
    owner = Client(keep.guard)
    owner.log_in("oli", keep.phones["oli"].now())
    refused = owner("POST", f"/v1/challenges/{challenge}/proofs", keep.evidence("oli", owner, challenge))
    assert (refused.status, refused.body["reason"]) == (403, "proof_wrong_approver")
    name, client = keep.person()
    evidence = keep.evidence(name, client, challenge)
    assert client("POST", f"/v1/challenges/{challenge}/proofs", evidence).body["state"] == "pending"
    assert client("POST", f"/v1/challenges/{challenge}/proofs", evidence).body["reason"] == "proof_replayed"
    for alias in (name.upper(), "oli"):
        assert client("POST", f"/v1/challenges/{challenge}/proofs", {**evidence, "as": alias}).status == 401
    assert keep.state(challenge) == "pending"


def test_apr_018_a_removed_approvers_login_shows_and_decides_nothing(keep: Keep) -> None:
    challenge = keep.pause()
    name, client = keep.person()
    evidence = keep.evidence(name, client, challenge)
    with keep.world.desk() as desk:
        Lifecycle(desk.store, desk.ledger, desk.clock).remove_approver(name)
    assert client("POST", f"/v1/challenges/{challenge}/proofs", evidence).status == 401
    assert client("GET", f"/v1/challenges/{challenge}").status == 401
    assert SECRET not in client("GET", f"/challenges/{challenge}").text
    with keep.world.desk() as desk:  # hired again, they log in again
        Lifecycle(desk.store, desk.ledger, desk.clock).add_approver(name)
    assert client("GET", "/v1/challenges").status == 401


def test_apr_023_ids_cannot_be_guessed_nor_tried_out(keep: Keep) -> None:
    challenge = keep.pause()
    assert len(challenge) == 24
    _, client = keep.person()
    seen = {client("GET", f"/v1/challenges/{one}").status for one in ("1", "2", "c_1", "0" * 32, challenge[:-1] + "~")}
    assert seen == {404}


def test_apr_012_an_agent_opens_nothing_on_the_console_even_with_its_key_and_a_persons_cookie(keep: Keep) -> None:
    challenge = keep.pause()
    name, person = keep.person()
    agent = Client(keep.guard)
    key = f"Bearer {keep.world.key}"
    for client in (agent, person):
        for method, path in (
            ("GET", "/v1/challenges"),
            ("GET", f"/v1/challenges/{challenge}/canonical"),
            ("POST", f"/v1/challenges/{challenge}/proofs"),
            ("POST", f"/v1/challenges/{challenge}/cancel"),
            ("POST", "/v1/session"),
            ("GET", "/v1/events"),
            ("GET", "/v1/agents"),
        ):
            answer = client(method, path, {} if method == "POST" else None, authorization=key)
            assert (answer.status, SECRET in answer.text) == (403, False)
    assert agent("POST", f"/v1/challenges/{challenge}/proofs", {}).status == 401
    assert SECRET not in agent("GET", f"/challenges/{challenge}", authorization=key).text
    assert keep.state(challenge) == "pending"
    assert name


def test_apr_025_following_a_link_never_decides(keep: Keep) -> None:
    challenge = keep.pause()
    name, client = keep.person()
    code = keep.next_code(name)
    for path in (
        f"/challenges/{challenge}?decision=approve&code={code}&csrf={client.csrf}",
        f"/challenges/{challenge}/vote?decision=approve&code={code}&csrf={client.csrf}",
        f"/v1/challenges/{challenge}/proofs?kind=approval&code={code}",
    ):
        for method in ("GET", "HEAD"):
            client(method, path)
    assert keep.state(challenge) == "pending"


def test_apr_032_what_was_not_shown_in_full_offers_no_approval(keep: Keep) -> None:
    paused = keep.guard.call("wipe", {"path": "tmp/x", "note": " \n" * 9000, "z_path": SECRET})
    _, client = keep.person()
    short = client("GET", f"/challenges/{paused.challenge}").text
    assert "Cut here" in short
    assert 'value="approve"' not in short
    whole = client("GET", f"/challenges/{paused.challenge}?whole=1").text
    assert SECRET in whole
    assert 'value="approve"' in whole


def test_apr_024_of_an_approval_and_a_refusal_at_once_exactly_one_happens(keep: Keep) -> None:
    for _ in range(3):
        challenge = keep.pause()
        people = [keep.person() for _ in range(2)]
        bodies = [keep.evidence(name, client, challenge) for name, client in people]
        start, statuses = threading.Barrier(2), list[int]()

        racers = [
            threading.Thread(target=vote, args=(people[place][1], challenge, what, bodies[place], start, statuses))
            for place, what in enumerate(("proofs", "deny"))
        ]
        for one in racers:
            one.start()
        for one in racers:
            one.join()
        assert sorted(statuses) == [200, 409]
        assert keep.state(challenge) in {"satisfied", "denied"}


def vote(  # noqa: PLR0917 - a thread's arguments
    client: Client,
    challenge: str,
    what: str,
    body: Mapping[str, str],
    start: threading.Barrier,
    statuses: list[int],
) -> None:
    start.wait()
    statuses.append(client("POST", f"/v1/challenges/{challenge}/{what}", body).status)


# ------------------------------------------------------------------ text and errors (CON-005, 006, 016)

XSS = [
    '<script>fetch("/x")</script>',
    '"><img src=x onerror=alert(1)>',
    "</textarea></pre><svg/onload=alert(1)>",
    "{{7*7}}",
]


@pytest.mark.parametrize("text", XSS)
def test_con_005_nothing_an_agent_says_is_markup(text: str, keep: Keep) -> None:
    keep.number += 1
    paused = keep.guard.call("wipe", {"path": text, text: keep.number})
    name, client = keep.person()
    pages = [client("GET", path).text for path in ("/", f"/challenges/{paused.challenge}")]
    evidence = {**keep.evidence(name, client, paused.challenge), "because": text}
    client("POST", f"/v1/challenges/{paused.challenge}/deny", evidence)
    pages += [client("GET", path).text for path in ("/history", f"/challenges/{paused.challenge}")]
    pages.append(client("GET", "/history?" + "q=" + "%3Cscript%3E%22%27").text)
    told = False
    for page in pages:
        seen = Markup()
        seen.feed(page)
        assert seen.tags.isdisjoint({"img", "svg", "iframe"})
        assert [name for name in seen.attributes if name.startswith("on") or name == "style"] == []
        assert seen.scripts == 1
        assert all(place.startswith(("/", "?", "#")) and not place.startswith("//") for place in seen.places)
        told = told or text in "".join(seen.texts)
    assert told, "what the agent said is shown as it was said"


class Markup(HTMLParser):
    """What a browser takes for markup, and what for text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags, self.attributes = set[str](), set[str]()
        self.places, self.texts = list[str](), list[str]()
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self.places += [value or "" for name, value in attrs if name in {"href", "src", "action"}]
        self.scripts += tag == "script"

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "/metrics",
            "/v1/challenges/%00",
            "/challenges/%00",
            "/challenges/..%2f..",
            "/static/..%2fconsole.py",
            "/static/x",
        ),
        *("/v1/challenges?state=nonsense", "/v1/challenges?from=-1", "/v1/challenges?limit=1e9", "/history?from=x"),
        *("/history?state=%00", "/waiting", "/v1", "/challenges/", "//evil.example/challenges"),
    ],
)
def test_con_016_errors_and_odd_paths_tell_nothing(path: str, keep: Keep) -> None:
    keep.pause()
    _, person = keep.person()
    for client in (Client(keep.guard), person):
        answer = client("GET", path)
        assert answer.status in {200, 303, 400, 401, 404}
        assert answer.status != 200 or path == "/waiting"
        assert "Traceback" not in answer.text
        assert SECRET not in answer.text


def test_con_016_nobody_sees_an_argument_without_a_login(keep: Keep) -> None:
    challenge = keep.pause()
    paths = ("", "/", "/login", "/history", "/waiting", f"/challenges/{challenge}", f"/challenges/{challenge}/view")
    api = ("/v1/challenges", f"/v1/challenges/{challenge}", "/v1/grants", "/v1/agents", "/v1/openapi.json", "/healthz")
    for path in (*paths[1:], *api):
        assert SECRET not in Client(keep.guard)("GET", path).text


# ------------------------------------------------------------------ codes (FAC-001 to 004, 020)


def test_fac_020_a_code_that_logged_in_decides_nothing_nor_the_other_way_round(keep: Keep) -> None:
    challenge, phone = keep.pause(), add_person(keep.world, "fay")
    client, code = Client(keep.guard), phone.now()
    assert client.log_in("fay", code).status == 201
    evidence = {"kind": "approval", "code": code, "view_digest": keep.view(client, challenge)}
    assert client("POST", f"/v1/challenges/{challenge}/proofs", evidence).body["reason"] == "proof_replayed"
    later = phone.at(time.time() + 30)
    assert client("POST", f"/v1/challenges/{challenge}/proofs", {**evidence, "code": later}).status == 200
    assert Client(keep.guard).log_in("fay", later).body["reason"] == "proof_replayed"


def test_fac_003_guesses_over_many_challenges_connections_and_the_login_share_one_limit(keep: Keep) -> None:
    name, client = keep.person()
    challenges = [keep.pause() for _ in range(4)]
    views = {one: keep.view(client, one) for one in challenges}
    statuses, lock = list[int](), threading.Lock()

    def guess(start: int) -> None:
        for number in range(start, start + 10):
            one = challenges[number % len(challenges)]
            body = {"kind": "approval", "code": f"{number:06d}", "view_digest": views[one]}
            if number % 3:
                status = client("POST", f"/v1/challenges/{one}/proofs", body).status
            else:
                status = Client(keep.guard).log_in(name, f"{number:06d}").status
            with lock:
                statuses.append(status)

    guessers = [threading.Thread(target=guess, args=(place * 10,)) for place in range(4)]
    for one in guessers:
        one.start()
    for one in guessers:
        one.join()
    assert statuses.count(403) == 4  # the fifth wrong one locks
    assert set(statuses) == {403, 429}
    assert len([one for one in keep.world.records("factor.locked") if one["subject"] == name]) == 1
    assert Client(keep.guard).log_in(name, keep.next_code(name)).status == 429


def test_fac_004_only_six_ascii_digits_are_a_code_and_every_try_counts(keep: Keep) -> None:
    name, _ = keep.person()
    code = keep.next_code(name)
    for spelled in (
        f" {code}",
        f"{code[:3]} {code[3:]}",
        f"+{code}",
        code.translate({48 + d: 0xFF10 + d for d in range(10)}),
    ):
        assert Client(keep.guard).log_in(name, spelled).status == 403
    assert Client(keep.guard).log_in(name, f"{code}\0").status == 429


def test_an_unknown_name_and_a_wrong_code_look_the_same(keep: Keep) -> None:
    name, _ = keep.person()
    answers = [Client(keep.guard).log_in(who, "000000") for who in ("nobody", name)]
    assert answers[0].text == answers[1].text
    assert answers[0].status == answers[1].status == 403


def test_bodies_that_are_no_small_objects_of_texts_are_refused(keep: Keep) -> None:
    challenge = keep.pause()
    _, client = keep.person()
    for body in (
        '{"kind":"approval","kind":"x"}',
        '{"kind":1}',
        "[]",
        "{",
        '{"kind":"\\ud800"}',
        json.dumps({"a": "x" * 70_000}),
    ):
        answer = client("POST", f"/v1/challenges/{challenge}/proofs", body, content_type="application/json")
        assert answer.status == 400
    cancel(keep.world, challenge)
