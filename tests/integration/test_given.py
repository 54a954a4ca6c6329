"""Consent to further calls, end to end: by the form of the console and at a terminal, against a running guard."""

from __future__ import annotations

import json
import re
import time
from urllib.parse import urlencode

from guard.stepup.view import render
from tests.visitors import Client, add_person
from tests.world import POLICY, World

GRANTS = POLICY.replace("require: step_up}", "require: consent, grants: {uses: 2, minutes: 30}}")


def test_a_person_allows_further_calls_and_takes_them_back(world: World) -> None:
    assert GRANTS != POLICY
    world.write_everywhere(GRANTS)
    guard = world.serve()
    ann, ben = add_person(world, "ann"), add_person(world, "ben")
    paused = guard.call("wipe", {"n": 1})
    client = Client(guard)
    client.log_in("ann", ann.now())
    page = client("GET", f"/challenges/{paused.challenge}").text
    assert "at most 2, within 30 minutes" in page
    [found] = world.challenges()
    form = {
        "csrf": client.csrf,
        "view": render(found).digest,
        "decision": "approve",
        "note": "the weekly run",
        "code": ann.at(int(time.time()) + 30),  # the present one logged in
        "also_uses": "1",
        "also_minutes": "5",
        "also_when": "",
    }
    voted = client(
        "POST",
        f"/challenges/{paused.challenge}/vote",
        urlencode(form),
        content_type="application/x-www-form-urlencoded",
    )
    assert voted.status == 303, voted.text
    assert [guard.call("wipe", {"n": 1}).ran for _ in range(3)] == [True, True, False]
    assert world.runs("wipe", {"n": 1}) == 2
    given = str(world.records("intent.given")[-1]["intent"])
    why = world.cli("why", given).stdout
    assert "ann, for calls of robot" in why
    assert f"while approving {paused.challenge}" in why
    assert "on 1 call" in why

    again = world.pending().id
    said = world.cli(
        "challenge", "approve", again, "--as", "ben", "--code", ben.now(), "--also", "2", "--also-when", "args.n < 9"
    )
    assert said.returncode == 0, said.stderr
    assert guard.call("wipe", {"n": 1}).ran
    assert guard.call("wipe", {"n": 8}).ran
    assert not guard.call("wipe", {"n": 9}).ran
    [live] = [one for one in json.loads(world.cli("intent", "ls", "--json").stdout) if one["state"] == "live"]
    assert (live["signer"], live["uses"]) == ("ben", "1/2")
    other = Client(guard)
    assert other("POST", f"/v1/intents/{live['id']}/revoke", {}).status == 401
    assert client("POST", f"/v1/intents/{given}0/revoke", {}).status == 404
    taken = client("POST", f"/v1/intents/{live['id']}/revoke", {})
    assert (taken.status, taken.body["state"]) == (200, "revoked")
    assert not guard.call("wipe", {"n": 8}).ran
    assert re.search(r"an intent was taken back.*by ann", world.cli("why", live["id"]).stdout)
    world.check()
