"""Signed intents against a running guard: published over HTTP, counted over processes, and the ways they are abused."""

from __future__ import annotations

import json
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.guards import Serving
from tests.outside import Done, Verbs
from tests.world import World

POLICY = """\
server: {server}
owner: journal-team
default: {sensitivity: internal}
tools:
  note: {sensitivity: internal}
  mute: {sensitivity: internal}
  wipe: {sensitivity: critical, effects: [destroy], require: consent}
"""


@dataclass
class Ci:
    """A machine with a key and the guard's address, and nothing else of the guard."""

    world: World
    front: Serving
    verbs: Verbs
    folder: Path

    @property
    def console(self) -> str:
        return f"http://127.0.0.1:{self.front.config.console.port}"

    def sign(self, *words: str, to: str = "", key: str = "key.pem") -> Done:
        where = ("--to", to or self.console) if to != "-" else ("--output", "-")
        who = ("--as", "releases", "--agent", "robot", "--server", "web", "--tool", "wipe", "--key-file", key)
        return self.verbs("intent", "sign", *who, *words, *where, cwd=self.folder)

    def post(self, envelope: str, **headers: str) -> tuple[int, dict[str, Any]]:
        request = urllib.request.Request(
            f"{self.console}/v1/intents",
            data=envelope.encode(),
            headers={"content-type": "application/json", **headers},
        )
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def guard(self, *words: str) -> Done:
        return self.verbs(*words, cwd=self.world.folder)


@pytest.fixture(scope="module")
def ci(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ci]:
    folder = tmp_path_factory.mktemp("ci")
    for name in ("key", "other"):
        key = ec.generate_private_key(ec.SECP256R1())
        file = folder / f"{name}.pem"
        file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.chmod(0o600)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / f"{name}.pub").write_bytes(public)
    with World(tmp_path_factory.mktemp("world")) as world, Verbs(tmp_path_factory.mktemp("verbs")) as verbs:
        world.write_everywhere(POLICY)
        made = Ci(world, world.serve(), verbs, folder)
        enrolled = made.guard(
            "factor", "enroll", "intent", "releases", "--agent", "robot", "--public-key", str(folder / "key.pub")
        )
        assert enrolled.code == 0, enrolled.err
        assert "attestation 0" in enrolled.err
        yield made
        world.check()


def test_what_ci_signed_runs_once_and_the_use_is_on_record_with_its_ticket(ci: Ci) -> None:
    assert ci.front.call("wipe", {"n": 1}).challenge
    done = ci.sign("--argument", "n:=1", "--ticket", "CHG0030001", "--reason", "cleanup")
    assert done.code == 0, done.err
    intent = done.out.strip()
    assert ci.front.call("wipe", {"n": 1}).ran
    assert ci.front.call("wipe", {"n": 1}).challenge
    assert ci.world.runs("wipe", {"n": 1}) == 1
    consumed = [one for one in ci.world.records("grant.consumed") if one["factors"][0]["factor"] == intent]
    assert [one["factors"][0]["note"] for one in consumed] == ["CHG0030001: cleanup"]
    assert consumed[0]["factors"][0]["attestation"] == 0
    [listed] = [one for one in json.loads(ci.guard("intent", "ls", "--json").out) if one["id"] == intent]
    assert (listed["state"], listed["uses"], listed["attestation"]) == ("used up", "1/1", 0)


def test_another_argument_agent_or_server_is_not_let_through(ci: Ci) -> None:
    assert ci.sign("--argument", "n:=2", "--uses", "9").code == 0
    other = ci.world.add_agent("other")
    assert ci.front.call("wipe", {"n": 3}).challenge
    assert ci.front.call("wipe", {"n": 2, "force": True}).challenge
    assert ci.front.call("wipe", {"n": "2"}).challenge
    assert ci.front.call("wipe", {"n": 2}, key=other).challenge
    assert ci.front.call("wipe", {"n": 2}).ran


def test_as_many_calls_run_as_there_are_uses_over_two_processes_and_many_callers(ci: Ci) -> None:
    assert ci.sign("--when", "args.race > 0", "--uses", "5").code == 0
    twin = ci.world.replica()
    fronts = (ci.front, twin)
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda n: fronts[n % 2].call("wipe", {"race": n + 1}), range(24)))
    ran = sum(answer.ran for answer in answers)
    assert ran == 5
    assert sum(line["arguments"].get("race", 0) > 0 for line in ci.world.ran()) == 5


def test_a_revoked_intent_lets_nothing_through_and_why_says_so(ci: Ci) -> None:
    intent = ci.sign("--argument", "n:=5").out.strip()
    assert ci.guard("intent", "revoke", intent).code == 0
    assert ci.guard("intent", "revoke", intent).code == 1
    paused = ci.front.call("wipe", {"n": 5})
    assert paused.challenge
    assert "the intent was revoked" in ci.guard("why", paused.challenge).out
    assert [one["intent"] for one in ci.world.records("intent.revoked")] == [intent]


def test_publishing_again_adds_no_use_and_a_changed_manifest_is_refused(ci: Ci) -> None:
    signed = ci.sign("--argument", "n:=6", to="-").out
    assert [ci.post(signed)[0], ci.post(signed)[0]] == [201, 200]
    assert ci.front.call("wipe", {"n": 6}).ran
    assert ci.post(signed)[1]["state"] == "used up"
    assert ci.front.call("wipe", {"n": 6}).challenge
    changed = json.loads(signed) | {"payload": json.loads(ci.sign("--argument", "n:=7", to="-").out)["payload"]}
    status, said = ci.post(json.dumps(changed))
    assert (status, said["reason"]) == (403, "proof_invalid")


def test_the_key_of_an_agent_publishes_nothing_and_reads_nothing(ci: Ci) -> None:
    signed = ci.sign("--argument", "n:=8", to="-").out
    assert ci.post(signed, authorization=f"Bearer {ci.world.key}")[0] == 403
    assert ci.post(signed, authorization="Bearer nonsense")[0] == 401
    assert ci.post(signed, origin="http://evil.example")[0] == 403
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{ci.console}/v1/intents")
    assert ci.post("[]")[0] == 400
    assert ci.post("{}")[0] == 403
    assert ci.post("x" * 70_000)[0] == 400


def test_a_key_that_nobody_enrolled_is_refused_without_a_word_in_the_ledger(ci: Ci) -> None:
    before = len(ci.world.records("intent.rejected"))
    done = ci.sign("--argument", "n:=9", key="other.pem")
    assert (done.code, done.out) == (1, "")
    assert "no enrolled key" in done.err
    assert len(ci.world.records("intent.rejected")) == before


def test_the_agent_cannot_be_its_own_release_system(ci: Ci) -> None:
    public = str(ci.folder / "other.pub")
    assert ci.guard("factor", "enroll", "intent", "robot", "--agent", "*", "--public-key", public).code == 0
    done = ci.sign("--as", "robot", "--argument", "n:=10", key="other.pem")
    assert done.code == 1
    assert "cannot sign intents for it" in done.err
    assert [one["signer"] for one in ci.world.records("intent.rejected")][-1] == "robot"


def test_a_file_can_be_carried_over_and_published_where_the_state_is(ci: Ci) -> None:
    file = ci.folder / "intent.json"
    (ci.folder / "args.json").write_text('{"n": 11}')
    file.write_text(ci.sign("--arguments", "args.json", to="-").out)
    assert ci.guard("intent", "publish", str(file)).code == 0
    assert ci.front.call("wipe", {"n": 11}).ran


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "say which arguments"),
        (("--argument", "n"), 2, "NAME=TEXT"),
        (("--argument", "n:=x"), 2, "not JSON"),
        (("--argument", "n=1", "--for", "soon"), 2, "not a duration"),
        (("--argument", "n=1", "--from", "tomorrow"), 2, "not a time"),
        (("--argument", "n=1", "--from", "2026-11-25T08:00"), 2, "which zone"),
        (("--argument", "n=1", "--from", "2020-01-01T00:00Z"), 1, "before the manifest was signed"),
        (("--argument", "n=1", "--for", "32d"), 1, "within 31 days"),
        (("--when", "args.n >"), 1, "in the condition"),
        (("--argument", "n=1", "--token", "x"), 2, "not in both"),
    ],
)
def test_a_mistake_is_said_before_anything_is_signed(words: tuple[str, ...], code: int, said: str, ci: Ci) -> None:
    done = ci.sign(*words)
    assert done.code == code
    assert said in done.err


def test_a_console_that_is_not_there_is_said(ci: Ci) -> None:
    done = ci.sign("--argument", "n=1", to="http://127.0.0.1:9")
    assert done.code == 1
    assert "cannot be reached" in done.err


def test_openssl_keys_work_as_the_how_to_says(ci: Ci, tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", tmp_path / "k.pem"], check=True
    )
    (tmp_path / "k.pem").chmod(0o600)
    subprocess.run(
        ["openssl", "ec", "-in", tmp_path / "k.pem", "-pubout", "-out", tmp_path / "k.pub"],
        check=True,
        capture_output=True,
    )
    public = ("--public-key", str(tmp_path / "k.pub"))
    assert ci.guard("factor", "enroll", "intent", "changes", "--agent", "robot", "--server", "web", *public).code == 0
    assert ci.sign("--as", "changes", "--argument", "n:=12", key=str(tmp_path / "k.pem")).code == 0
    assert ci.front.call("wipe", {"n": 12}).ran
