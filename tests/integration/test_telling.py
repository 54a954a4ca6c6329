"""Paused calls reach people through real receivers and may be denied there; emergencies are known to everybody."""

from __future__ import annotations

import base64
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyotp
import pytest

from guard.notify.signing import check, key_of, signed
from tests.guards import Answer, Serving
from tests.outside import Done, Verbs
from tests.receivers import Hook, http_receiver
from tests.world import World, free_port, until

SECRET = "whsec_" + base64.b64encode(b"s" * 32).decode()
CANARY = "hunter2-in-the-arguments"


class Post:
    """A running deployment with a webhook, and people at terminals."""

    def __init__(self, world: World, verbs: Verbs, hook: Hook) -> None:
        self.world, self.verbs, self.hook = world, verbs, hook
        self.front: Serving = world.serve()

    def guard(self, *words: str) -> Done:
        return self.verbs(*words, cwd=self.world.folder)

    def person(self, name: str, *groups: str, kind: str = "totp") -> pyotp.TOTP:
        self.guard("approver", "add", name, *(word for group in groups for word in ("--group", group)))
        phone = pyotp.parse_uri(self.guard("factor", "enroll", kind, name).out.strip())
        assert isinstance(phone, pyotp.TOTP)
        return phone

    def pause(self, number: int) -> str:
        paused = self.front.call("wipe", {"number": number, "password": CANARY})
        assert paused.challenge, paused.text
        return paused.challenge

    def again(self, number: int) -> Answer:
        return self.front.call("wipe", {"number": number, "password": CANARY})

    def told(self, challenge: str, kind: str) -> dict[str, Any]:
        """The notice of one challenge, once it has come, with its signature checked."""
        found: list[dict[str, Any]] = []

        def came() -> bool:
            for headers, body in tuple(self.hook.requests):
                message = json.loads(body)
                if (message["type"], message["data"]["challenge"]) == (kind, challenge):
                    check(key_of(SECRET), headers, body, time.time())
                    found.append(message["data"])
            return bool(found)

        until(came, f"{kind} of {challenge} is told", within=15)
        return found[0]

    def deny(self, challenge: str, digest: str, user: str) -> int:
        order = {
            "type": "challenge.deny",
            "challenge": challenge,
            "short_digest": digest,
            "user": user,
            "because": "no",
        }
        body = json.dumps(order).encode()
        listen = self.front.config.console
        connection = http.client.HTTPConnection(listen.host, listen.port, timeout=15)
        connection.request("POST", "/channels/ops/deny", body, dict(signed(key_of(SECRET), "n_1", time.time(), body)))
        status = connection.getresponse().status
        connection.close()
        return status


@pytest.fixture(scope="module")
def post(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Post]:
    folder = tmp_path_factory.mktemp("post")
    (folder / "secret").write_text(SECRET)
    with http_receiver() as hook:
        more = (
            "[approval]\nsolo = true\ncool_down = 0\nnotify_after = 0.0\nnotices_per_minute = 600\n"
            f"[notify.ops]\nkind = 'webhook'\nurl = '{hook.url}'\nsecret = {{file = 'secret'}}\n"
            "deny_by = {U1 = 'ann'}\n"
            "[notify.dead]\nkind = 'webhook'\nurl = 'http://127.0.0.1:9/'\nsecret = {file = 'secret'}\n"
        )
        with World(folder, more=more) as world, Verbs(tmp_path_factory.mktemp("verbs")) as verbs:
            yield Post(world, verbs, hook)
            world.check()


def test_a_paused_call_is_told_without_its_arguments_and_a_dead_channel_delays_nothing(post: Post) -> None:
    challenge = post.pause(1)
    data = post.told(challenge, "challenge.opened")
    assert (data["agent"], data["server"], data["tool"]) == ("robot", "web", "wipe")
    assert data["url"].endswith(f"/challenges/{challenge}")
    assert not any(CANARY.encode() in body for _, body in post.hook.requests)
    post.world.wait_for("notice.failed", within=15)
    [failed, *_] = post.world.records("notice.failed")
    assert failed["channel"] == "dead"
    assert post.again(1).challenge == challenge, "that one channel is away neither denied nor allowed anything"


def test_a_user_of_the_channel_denies_and_the_agent_hears_it(post: Post) -> None:
    post.person("ann")
    challenge = post.pause(2)
    data = post.told(challenge, "challenge.opened")
    assert post.deny(challenge, data["short_digest"], "U9") == 403
    assert post.deny(challenge, data["short_digest"], "U1") == 200
    assert post.deny(challenge, data["short_digest"], "U1") == 409
    [record] = [one for one in post.world.records("challenge.denied") if one["challenge_id"] == challenge]
    assert (record["by"], record["because"]) == ("ann", "no (by ops)")


def test_several_calls_are_approved_with_one_code_each_of_them_shown(post: Post) -> None:
    phone = post.person("lea")
    challenges = [post.pause(number) for number in (10, 11, 12)]
    code = phone.now()
    refused = post.guard("challenge", "approve", *challenges, "c_none", "--as", "lea", "--code", code)
    assert refused.code == 1
    done = post.guard("challenge", "approve", *challenges, "--as", "lea", "--code", code, "--json")
    assert done.code == 0, done.err
    assert [row["state"] for row in json.loads(done.out)] == ["satisfied"] * 3
    for number, challenge in zip((10, 11, 12), challenges, strict=True):
        assert challenge in done.err
        assert f'"number": {number}' in done.err
        assert [post.again(number).ran, post.again(number).ran] == [True, False]
    [listed] = post.world.records("list.proven")
    assert [item["challenge_id"] for item in listed["items"]] == challenges


def test_an_emergency_runs_one_call_is_told_to_all_and_waits_for_another_person(post: Post) -> None:
    token, phone = post.person("max", kind="break-glass"), post.person("mia")
    people = {one["name"]: one["state"] for one in json.loads(post.guard("approver", "ls", "--json").out)}
    assert (people["max"], people["mia"]) == ("no factor", "able")
    first, second = post.pause(20), post.pause(21)
    words = ("--as", "max", "--reason", "production is down", "--ticket", "INC-20")
    done = post.guard("challenge", "break-glass", first, *words, "--code", token.now())
    assert done.code == 0, done.err
    assert '"number": 20' in done.err
    assert [post.again(20).ran, post.again(20).ran] == [True, False]
    assert "max: INC-20" in post.told(first, "glass.broken")["words"]
    blocked = post.guard("challenge", "break-glass", second, *words, "--code", token.at(time.time() + 30))
    assert blocked.code == 1
    assert "waits for its review" in blocked.err
    doctor = post.guard("doctor", "--json")
    assert doctor.code == 1
    assert any("nobody has reviewed it" in one["what"] for one in json.loads(doctor.out))
    waiting = json.loads(post.guard("challenge", "review", "--json").out)
    assert [(one["challenge"], one["ticket"]) for one in waiting] == [(first, "INC-20")]
    alone = post.guard("challenge", "review", first, "--as", "max", "--code", "000000", "--verdict", "fine")
    assert alone.code == 1
    looked = post.guard("challenge", "review", first, "--as", "mia", "--code", phone.now(), "--verdict", "it was right")
    assert looked.code == 0, looked.err
    assert json.loads(post.guard("challenge", "review", "--json").out) == []


def test_doctor_names_what_weakens_consent_and_what_to_do(post: Post) -> None:
    post.pause(30)
    post.world.wait_for("notice.failed", within=15)
    checks = json.loads(post.guard("doctor", "--json").out)
    said = {one["what"]: one["remedy"] for one in checks if one["level"] != "ok"}
    assert any("channel dead took no notice" in what and "guard notify test dead" in said[what] for what in said)
    assert any("solo mode" in what and "deceived" in what for what in said)


def test_a_channel_can_be_tried(post: Post) -> None:
    done = post.guard("notify", "test", "ops", "--json")
    assert done.out, done.err
    assert (done.code, json.loads(done.out)) == (0, [{"name": "ops", "delivered": True, "error": ""}])
    assert "channel.tested" in {json.loads(body)["type"] for _, body in post.hook.requests}
    dead = post.guard("notify", "test", "--json")
    assert dead.code == 1
    assert [row["delivered"] for row in json.loads(dead.out)] == [True, False]
    listed = json.loads(post.guard("notify", "ls", "--json").out)
    assert [(row["name"], row["deny_by"]) for row in listed] == [("ops", ["ann"]), ("dead", [])]


def test_solo_mode_is_marked_in_every_record(post: Post) -> None:
    marked = [record.get("solo") for record in post.world.records()]
    assert marked
    assert set(marked) == {True}


def test_the_figures_of_the_ledger_are_printed(post: Post) -> None:
    phone, challenge = post.person("fay"), post.pause(40)
    assert post.guard("challenge", "approve", challenge, "--as", "fay", "--code", phone.now()).code == 0
    found = json.loads(post.guard("challenge", "stats", "--json").out)
    assert found["prompts"] >= found["approvals"] >= 1
    assert found["share_of_approvals_under_2s"] is not None
    assert "prompts_per_1000_calls" in post.guard("challenge", "stats").out


def test_agentack_accepts_the_exported_trace_and_fails_one_in_which_a_denied_call_ran(
    post: Post, tmp_path: Path
) -> None:
    phone, approved, denied = post.person("pam"), post.pause(41), post.pause(42)
    assert post.guard("challenge", "approve", approved, "--as", "pam", "--code", phone.now()).code == 0
    assert post.again(41).ran
    later = phone.at(time.time() + 30)
    assert post.guard("challenge", "deny", denied, "--as", "pam", "--code", later, "--reason", "no").code == 0
    post.world.settle()
    lines = post.guard("audit", "export", "--format", "agentack").out.splitlines()
    assert judge(tmp_path, lines) == 0
    denial = next(json.loads(line) for line in lines if json.loads(line).get("decision") == "deny")
    ran = next(json.loads(line) for line in lines if json.loads(line)["type"] == "action_executed")
    forged = ran | {"action_id": denial["action_id"], "approval_id": denial["approval_id"]}
    assert judge(tmp_path, [*lines[:-1], json.dumps(forged), lines[-1]]) == 1


def judge(folder: Path, lines: list[str]) -> int:
    """What `agentack check` says of a trace: 0 for a sound one, 1 for a fault."""
    file = folder / "trace.jsonl"
    file.write_text("\n".join(lines) + "\n")
    command = [sys.executable, "-m", "agentack", "check", str(file)]
    return subprocess.run(command, check=False, capture_output=True, timeout=30).returncode


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("[notify.a]\nkind = 'webhook'\nurl = 'https://x.example/'\nsecret = {env = 'NOT_SET'}\n", "NOT_SET"),
        ("[notify.a]\nkind = 'smtp'\nhost = 'm.example'\nsender = 'a@b'\nto = ['c@d']\ntls = 'none'\n", "loopback"),
        ("[notify.a]\nkind = 'pigeon'\n", "notify.a"),
    ],
)
def test_a_channel_that_cannot_work_keeps_the_guard_from_starting(
    table: str, said: str, post: Post, tmp_path: Path
) -> None:
    listen = "".join(f"[{name}]\nlisten = '127.0.0.1:{free_port()}'\n" for name in ("proxy", "console"))
    (tmp_path / "guard.toml").write_text(f"{listen}[servers.x]\nurl = 'http://127.0.0.1:9/'\n{table}")
    (tmp_path / "tool_policies").mkdir()
    done = post.verbs("serve", cwd=tmp_path)
    assert done.code == 2
    assert said in done.err
    assert "Traceback" not in done.err
