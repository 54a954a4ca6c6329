"""The classification group of the attack corpus: what a wrong policy, or a tool server that lies, may not achieve."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from guard.config import IRREVERSIBLE
from guard.errors import PolicyError
from guard.lab.check import check
from guard.model import Call, Principal, Requirement, Source
from guard.policy.classify import PolicySet, classify
from guard.policy.directory import PolicyDirectory
from guard.proxy.catalogue import Catalogue
from guard.requirement import required
from guard.store.seal import Keyring
from guard.store.sql import SqlStore
from tests.world_store import WorldLedger

CORPUS = Path(__file__).parents[3] / "shared" / "attacks"
FILE = CORPUS / "attacks.jsonl"
pytestmark = pytest.mark.skipif(not FILE.exists(), reason=f"there is no attack corpus in {CORPUS}")

PRIV, SAFE = "vault.delete_secret", "docs.search"
NOW = 1_795_000_000.0
ELSEWHERE = {"CLS-029": "what an agent read before is for the signals to judge, not for a tag"}
"""Records that another part of the guard answers."""

RECORDS: dict[str, dict[str, Any]] = {
    one["id"]: one
    for one in (map(json.loads, FILE.read_text().splitlines()) if FILE.exists() else [])
    if one["group"] == "classification"
}
POLICIES = [name for name, one in RECORDS.items() if one["method"] == "policy"]


def asked(tool: str, arguments: Mapping[str, Any] | None = None, server: str = "vault") -> Call:
    return Call(
        id="k_1", principal=Principal(subject="alice-bot", credential="c", owner="oli"), server=server, kind="tool",
        source=Source(transport="http"), method="tools/call", name=tool.replace("{{PRIV}}", PRIV),
        arguments=arguments or {}, canonical="", definition="", digest="", received=NOW,
    )  # fmt: skip


def needs(policies: PolicySet, call: Call, catalogue: Catalogue | None = None) -> Requirement:
    """What the call has to prove when nothing about its caller is unusual."""
    found = classify(
        policies,
        call,
        now=NOW,
        definition_changed=catalogue is not None and catalogue.changed(call.server, call.name),
        hint_destructive=catalogue is not None and catalogue.destructive(call.server, call.name),
    )
    return required(found, (), irreversible=frozenset(IRREVERSIBLE))[0]


@pytest.mark.parametrize("name", POLICIES)
def test_a_wrong_policy_is_refused_or_asks_for_a_proof(name: str, tmp_path: Path) -> None:
    record = RECORDS[name]
    for file, text in record["payload"]["files"].items():
        (tmp_path / file).write_text(text)
    directory, failed = PolicyDirectory(tmp_path, ["vault"]), False
    tracemalloc.start()
    try:
        directory.load()
    except PolicyError:
        failed = True
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 64 * 1024 * 1024
    if {"load_fails", "not_serving_or_deny_all"} & {*record["oracle"]}:
        assert failed
    if "lint_error" in record["oracle"] and name != "CLS-009":  # which names exist only the live server knows
        report = check(tmp_path)
        assert report.mistakes or report.warnings
    probes = record["payload"]["probe"]
    for probe in probes if isinstance(probes, list) else [probes]:
        assert needs(directory.current, asked(probe["tool"], probe.get("args")))


def test_a_value_that_only_looks_like_another_takes_the_stricter_branch() -> None:
    """CLS-024, written in the language as it is: exact values may lower, and nothing else does."""
    folder_policy = (
        "server: vault\ntools:\n  vault.read:\n    sensitivity: critical\n"
        '    rules: [{when: \'args.path.startsWith("dev/") && !args.path.contains("..")\', sensitivity: public}]\n'
    )
    directory = _served(folder_policy)
    for probe in RECORDS["CLS-024"]["payload"]["probe"]:
        assert needs(directory, asked(probe["tool"], probe["args"]))
    assert not needs(directory, asked("vault.read", {"path": "dev/db"}))


def _served(text: str) -> PolicySet:
    from guard.policy.reading import read  # noqa: PLC0415 - for this one test

    policy, mistakes = read(text.encode(), "vault.yaml")
    assert not mistakes
    assert policy is not None
    return PolicySet({policy.server: policy}, "r1")


# ------------------------------------------------------------------ a tool server that lies


@pytest.fixture
def fixture_policies() -> PolicySet:
    return PolicyDirectory(CORPUS / "tool_policies").load()


@pytest.fixture
def catalogue(tmp_path: Path) -> Iterator[Catalogue]:
    store = SqlStore.open(tmp_path / "state", Keyring.open(tmp_path / "state"))
    yield Catalogue(store.pins, WorldLedger())
    store.close()


def lists(catalogue: Catalogue, *tools: Mapping[str, Any], server: str = "vault") -> None:
    catalogue.observe(server, json.dumps({"jsonrpc": "2.0", "id": 1, "result": {"tools": list(tools)}}).encode())


def steps(name: str, verb: str) -> list[dict[str, Any]]:
    return [step for step in RECORDS[name]["steps"] if step["do"] == verb]


def test_a_tool_that_was_changed_behind_its_tag_needs_a_person(
    catalogue: Catalogue, fixture_policies: PolicySet
) -> None:
    lists(catalogue, {"name": SAFE, "description": "searches"})
    assert not needs(fixture_policies, asked(SAFE, {"q": "x"}), catalogue)
    (pulled,) = steps("CLS-001", "upstream.set_tool")
    lists(catalogue, {"name": SAFE, "description": pulled["description"], "annotations": pulled["annotations"]})
    assert needs(fixture_policies, asked(SAFE, {"q": "x"}), catalogue)


def test_a_tool_that_is_another_one_every_second_time_needs_a_person_every_time(
    catalogue: Catalogue, fixture_policies: PolicySet
) -> None:
    for text in ("searches", "deletes everything", "searches"):  # CLS-002
        lists(catalogue, {"name": SAFE, "description": text})
    assert needs(fixture_policies, asked(SAFE, {"q": "x"}), catalogue)


def test_the_tag_of_one_server_says_nothing_about_the_same_name_on_another(fixture_policies: PolicySet) -> None:
    (added,) = steps("CLS-003", "upstream.add_server")
    assert needs(fixture_policies, asked(SAFE, {"q": "s"}, server=added["name"]))
    for one, other in ((("a.b", "c"), ("a", "b.c")), (("a__b", "c"), ("a", "b__c"))):  # CLS-004
        policy = _served(f"server: {one[0]}\ntools: {{{one[1]}: {{sensitivity: public}}}}\n")
        assert not needs(policy, asked(one[1], server=one[0]))
        assert needs(policy, asked(other[1], server=other[0]))


def test_no_annotation_of_a_server_lowers_what_its_tool_needs(
    catalogue: Catalogue, fixture_policies: PolicySet
) -> None:
    before = needs(fixture_policies, asked(PRIV, {"path": "prod/db"}), catalogue)
    (lying,) = steps("CLS-005", "upstream.set_tool")
    lists(catalogue, {"name": PRIV, "annotations": lying["annotations"]})
    assert needs(fixture_policies, asked(PRIV, {"path": "prod/db"}), catalogue).demands >= before.demands


@pytest.mark.parametrize("name", ["CLS-006", "CLS-007"])
def test_a_new_tool_and_a_hidden_one_need_a_proof(name: str, catalogue: Catalogue, fixture_policies: PolicySet) -> None:
    lists(catalogue, {"name": SAFE})
    for step in steps(name, "upstream.set_tool"):
        lists(catalogue, {"name": SAFE}, {"name": step["tool"], "description": step["description"]})
    for step in steps(name, "agent.call"):
        assert needs(fixture_policies, asked(step["tool"], step["args"]), catalogue)


def test_no_moment_of_a_file_that_is_being_written_lets_a_privileged_call_pass(tmp_path: Path) -> None:
    (race,) = steps("CLS-020", "race")
    good = (CORPUS / "tool_policies" / "vault.yaml").read_bytes()
    file = tmp_path / "vault.yaml"
    file.write_bytes(good)
    directory, ended = PolicyDirectory(tmp_path, ["vault"], quiet=0.0), threading.Event()
    directory.load()

    def rewrite() -> None:
        for cut in [*range(0, len(good), max(1, len(good) // race["n"])), len(good)]:
            file.write_bytes(good[:cut])
            if cut % 7 == 0:
                swapped = tmp_path / ".vault.yaml.new"
                swapped.write_bytes(good[: cut // 2])
                swapped.replace(file)
        file.write_bytes(good)
        ended.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        while not ended.is_set():
            directory.refresh()
            policy = directory.current.policies["vault"]
            assert needs(directory.current, asked(PRIV, {"path": "prod/db"}))
            assert policy.server == "vault"
    finally:
        writer.join()


def test_a_server_with_a_flood_of_tools_costs_a_bounded_memory_and_frees_no_tool(
    catalogue: Catalogue, fixture_policies: PolicySet
) -> None:
    (flood,) = steps("CLS-030", "upstream.list_gen")
    for start in range(0, flood["tools"], 10_000):
        lists(catalogue, *({"name": f"t{number}"} for number in range(start, start + 10_000)))
    assert len(catalogue._seen) <= 4096
    assert needs(fixture_policies, asked(PRIV, {"path": "prod/db"}), catalogue)
    assert needs(fixture_policies, asked(SAFE, {"q": "x"}), catalogue), "nobody knows any more what was shown"


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_another_part_answers(name: str) -> None:
    pytest.skip(ELSEWHERE[name])


def test_every_record_of_the_group_is_answered_here() -> None:
    answered = {*POLICIES, *ELSEWHERE, "CLS-001", "CLS-002", "CLS-003", "CLS-004", "CLS-005", "CLS-006", "CLS-007"}
    assert RECORDS.keys() <= answered | {"CLS-020", "CLS-030"}
