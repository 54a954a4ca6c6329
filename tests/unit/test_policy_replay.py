"""`guard policy replay` and `diff`: recorded traffic under other tags, and never a silent guess."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.audit.export import Reader, jsonl
from guard.audit.ledger import FileLedger
from guard.audit.record import Entry
from guard.audit.redact import Redactor
from guard.cli.policy import policy
from guard.decide import Settings, decide
from guard.lab.recorded import Recorded, read
from guard.lab.replay import Judge
from guard.model import Call, Challenge, Finding, Json
from guard.policy.classify import PolicySet, classify
from guard.policy.directory import PolicyDirectory
from guard.policy.facts import Location
from guard.policy.reading import read as read_policy
from guard.proxy.journal import Journal, Judged
from guard.requirement import required
from guard.stepup import records
from guard.store.seal import Keyring
from tests.nouns import IRREVERSIBLE, PRINCIPAL, call, consent, finding
from tests.unit.ledger_world import HandClock, MemoryLanes

BEFORE = """server: payments
tools:
  list: {sensitivity: internal, effects: read}
  refund:
    sensitivity: sensitive
    log: [currency]
    rules:
      - {when: 'args.environment == "staging"', sensitivity: internal}
      - {when: 'args.amount > 100', require: consent}
"""


class Site:
    """A state directory whose ledger a real journal writes, and policies beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = HandClock()
        self.put("tool_policies", BEFORE)
        (folder / "guard.toml").write_text("")
        keys = Keyring.open(folder / "state")
        self.ledger = FileLedger.open(folder / "state", MemoryLanes(), self.clock, solo=False)
        self.redactor = Redactor(keys.digest_key)
        self.journal = Journal(self.ledger, self.redactor)
        self.watched = False
        self.policies = PolicyDirectory(folder / "tool_policies").load()
        self.count = 0

    def watch(self, text: str) -> None:
        """From here on as with `enforce = false`, under these policies."""
        self.policies = PolicyDirectory(self.put("tool_policies", text)).load()
        self.journal = Journal(self.ledger, self.redactor, watched={"payments"})
        self.watched = True

    def put(self, name: str, text: str) -> Path:
        (self.folder / name).mkdir(exist_ok=True)
        (self.folder / name / "payments.yaml").write_text(text)
        return self.folder / name

    def ask(self, tool: str, arguments: Mapping[str, Json], *findings: Finding, agent: str = "deployer") -> None:
        """One call: judged by the policies in force, recorded, and approved by a person after 30 s if challenged."""
        self.count += 1
        who = replace(PRINCIPAL, subject=agent)
        asked = call(tool, arguments, principal=who, random=f"{self.count:022d}")
        now = self.clock.now()
        tags = classify(self.policies, asked, now=now)
        settings = Settings(irreversible=IRREVERSIBLE, expires=300)
        decision = decide(asked, tags, findings, (), now, settings=settings)
        self.journal.decided(Judged(call=asked, classification=tags, findings=findings), decision)
        if isinstance(decision, Challenge) and not self.watched:
            self.ledger.append("challenge.opened", records.opened(decision, ()) | {"call_id": asked.id})
            self.clock.wall += 30
            proof = replace(consent(), view_digest="v")
            told: dict[str, Json] = {"proof": records.proof(proof), "missing": ""}
            self.ledger.append("proof.accepted", records.identity(decision) | told)

    def run(self, *words: str) -> Result:
        self.ledger.close()
        done = CliRunner().invoke(policy, [*words, "--config", str(self.folder / "guard.toml")])
        assert done.exit_code == 0, (done.output, done.exception)
        return done

    def json(self, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run(*words, "--json").stdout)
        return found

    def exported(self) -> Path:
        """What somebody else gets: the records without the key."""
        self.ledger.close()
        file = self.folder / "export.jsonl"
        file.write_text("".join(jsonl(entry) + "\n" for entry in Reader(self.folder / "state").read()))
        return file


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path)
    yield made
    made.ledger.close()


def test_the_policies_that_were_in_force_change_nothing(site: Site) -> None:
    site.ask("list", {})
    site.ask("refund", {"environment": "staging", "amount": 5})
    site.ask("refund", {"environment": "production", "amount": 500}, finding())
    found = site.json("replay")
    assert (found["calls"], found["new"], found["removed"]) == (3, 0, 0)
    assert (found["challenges_before"], found["challenges_after"]) == (1, 1)


def test_new_and_removed_challenges_are_told_by_tool_and_agent_with_the_minutes_they_cost(site: Site) -> None:
    for _ in range(3):
        site.ask("list", {}, agent="robot")
    site.ask("refund", {"environment": "production", "amount": 500})
    stricter = BEFORE.replace("{sensitivity: internal, effects: read}", "{sensitivity: internal, require: consent}")
    candidate = site.put(
        "candidate", stricter.replace("amount > 100', require: consent", "amount > 100', effects: read")
    )
    found = site.json("replay", "--against", str(candidate))
    rows = {(row["tool"], row["principal"]): (row["new"], row["removed"]) for row in found["rows"]}
    assert rows == {("list", "robot"): (3, 0), ("refund", "deployer"): (0, 1)}
    assert (found["approver_minutes_before"], found["approver_minutes_after"]) == (0.5, 1.5)
    assert found["measured_decisions"] == 1
    told = site.run("replay", "--against", str(candidate), "--markdown").stdout
    assert "| `payments` | `list` | `robot` | 3 | 3 | 0 | 0 | 3x none → consent |" in told


def test_the_deployments_own_key_answers_equality_with_digested_arguments(site: Site) -> None:
    site.ask("refund", {"environment": "staging", "amount": 5})
    site.ask("refund", {"environment": "production", "amount": 5})
    text = BEFORE.replace("- {when: 'args.amount > 100', require: consent}", "").replace(
        'environment == "staging"\', sensitivity: internal', 'environment == "production"\', require: consent'
    )
    found = site.json("replay", "--against", str(site.put("candidate", text)))
    assert (found["new"], found["uncertain"], found["unanswered"]) == (1, 0, [])


def test_without_the_key_a_condition_is_unanswered_counted_as_stricter_and_named(site: Site) -> None:
    site.ask("refund", {"environment": "staging", "amount": 5})
    text = BEFORE.replace(
        "{when: 'args.environment == \"staging\"', sensitivity: internal}",
        "{when: 'args.amount > 9', require: consent}",
    )
    candidate = site.put("candidate", text)
    found = site.json("replay", "--against", str(candidate), "--ledger", str(site.exported()))
    assert (found["new"], found["uncertain"]) == (1, 1)
    assert {"rule": "payments.yaml#tools.refund.rules[0]", "calls": 1, "needs": ["args.amount"]} in found["unanswered"]
    told = site.run("replay", "--against", str(candidate), "--ledger", str(site.exported())).stdout
    assert "counted as its stricter branch" in told
    assert "opt in with log: [amount]" in told


def test_what_was_opted_in_or_left_out_of_a_call_is_known(site: Site) -> None:
    site.ask("refund", {"currency": "EUR", "amount": 5})
    rule = "{when: 'args.currency == \"EUR\" && !has(args.memo)', require: both}"
    text = BEFORE.replace("{when: 'args.environment == \"staging\"', sensitivity: internal}", rule)
    found = site.json("diff", str(site.folder / "tool_policies"), str(site.put("candidate", text)))
    assert [row["requirement"] for row in found["rows"]] == [[{"before": "none", "after": "both", "calls": 1}]]


def test_a_rule_that_did_not_change_makes_no_difference_even_where_a_record_cannot_answer_it(site: Site) -> None:
    site.ask("refund", {"environment": "production", "amount": 5})
    site.ask("list", {})
    text = BEFORE.replace("list: {sensitivity: internal", "list: {require: step_up, sensitivity: internal")
    found = site.json("diff", str(site.folder / "tool_policies"), str(site.put("candidate", text)))
    assert (found["new"], found["uncertain"], found["unanswered"]) == (1, 0, [])


CALLERS = """server: payments
tools:
  list: {sensitivity: internal, effects: read, callers: %s}
"""


@pytest.mark.parametrize("agents", [("ann", "evil"), ("evil", "ann")])
def test_who_may_call_is_judged_for_each_agent_in_whatever_order_they_come(site: Site, agents: tuple[str, str]) -> None:
    for agent in agents:
        site.ask("list", {}, agent=agent)
    found = site.json("replay", "--against", str(site.put("candidate", CALLERS % "{agents: ann}")))
    rows = {row["principal"]: (row["new"], row["uncertain"], row["requirement"]) for row in found["rows"]}
    assert rows == {"ann": (0, 0, []), "evil": (1, 0, [{"before": "none", "after": "refused", "calls": 1}])}


@pytest.mark.parametrize("whose", ["file", "entry"])
def test_whether_a_group_lets_an_agent_call_is_uncertain_because_no_record_holds_groups(site: Site, whose: str) -> None:
    site.ask("list", {}, agent="ann")
    site.ask("list", {}, agent="bob")
    text = CALLERS % "{agents: ann, groups: release}"
    if whose == "file":
        text = "callers: {agents: ann, groups: release}\n" + CALLERS % "{agents: '*'}"
    found = site.json("replay", "--against", str(site.put("candidate", text)))
    rows = {row["principal"]: (row["new"], row["uncertain"]) for row in found["rows"]}
    assert rows == {"ann": (0, 0), "bob": (1, 1)}
    rule = "payments.yaml" if whose == "file" else "payments.yaml#tools.list"
    assert found["unanswered"] == [{"rule": rule, "calls": 1, "needs": ["principal.groups"]}]


def test_who_is_refused_by_name_as_well_is_certainly_refused(site: Site) -> None:
    site.ask("list", {}, agent="bob")
    text = "callers: {groups: release}\n" + CALLERS % "{agents: ann}"
    found = site.json("replay", "--against", str(site.put("candidate", text)))
    assert (found["new"], found["uncertain"], found["unanswered"]) == (1, 0, [])


def test_what_was_only_watched_shows_what_would_have_been_demanded(site: Site) -> None:
    site.watch(BEFORE.replace("effects: read}", "require: two_people}"))
    site.ask("list", {})
    found = site.json("replay", "--against", str(site.put("candidate", BEFORE)))
    assert [row["requirement"] for row in found["rows"]] == [[{"before": "two_people", "after": "none", "calls": 1}]]
    assert (site.json("replay")["challenges_before"], site.json("replay")["otherwise"]) == (1, 0)


def test_calls_that_were_only_watched_and_would_have_been_refused_are_replayed(site: Site) -> None:
    site.ask("list", {})
    site.watch(CALLERS % "{agents: ann}")
    site.ask("list", {}, agent="bob")
    same = site.json("replay")
    assert (same["calls"], same["denied"], same["challenges_before"], same["removed"]) == (2, 0, 1, 0)
    found = site.json("replay", "--against", str(site.put("candidate", CALLERS % "{agents: [ann, bob]}")))
    rows = {row["principal"]: (row["removed"], row["requirement"]) for row in found["rows"]}
    assert rows["bob"] == (1, [{"before": "refused", "after": "none", "calls": 1}])


def decided(**fields: Json) -> Entry:
    told: dict[str, Json] = {"server": "payments", "kind": "tool", "tool": "list", "args": {}, "decision": "deny"}
    return Entry("", 0, "2026-01-01T00:00:00.000000Z", "decision.made", told | fields, b"")


def test_a_refusal_that_was_enforced_or_that_watching_does_not_lift_is_not_replayed() -> None:
    refused: list[Json] = [{"code": "not_allowed"}, {"code": "tag_internal"}]
    for fields in ({"reasons": refused}, {"watched": True, "reasons": [{"code": "internal"}, *refused]}):
        traffic = read([decided(**fields)])
        assert (len(traffic.calls), traffic.denied) == (0, 1)
    assert [one.refused for one in read([decided(watched=True, reasons=refused)]).calls] == ["not_allowed"]


def test_a_watched_refusal_for_the_guards_own_user_lasts_while_the_call_is_critical(site: Site) -> None:
    (one,) = read([decided(watched=True, reasons=[{"code": "same_uid"}])]).calls
    for sensitivity, refused in (("critical", True), ("internal", False)):
        text = f"server: payments\ntools:\n  list: {{sensitivity: {sensitivity}}}\n"
        policies = PolicyDirectory(site.put("candidate", text)).load()
        assert Judge(policies, IRREVERSIBLE).judge(one).refused is refused


LOCATED = """server: payments
tools:
  refund:
    sensitivity: internal
    rules: [{when: 'source.country != "DE"', require: consent}]
"""


@pytest.mark.parametrize(("country", "needs"), [("DE", "none"), ("FR", "consent")])
def test_where_a_call_came_from_is_known_where_the_deployment_can_tell(site: Site, country: str, needs: str) -> None:
    found = PolicyDirectory(site.put("candidate", LOCATED), locate=lambda _: Location(country=country)).load()
    judged = Judge(found, IRREVERSIBLE).judge(_recorded(call("refund"), frozenset()))
    assert (judged.needs.label, judged.uncertain, judged.unanswered) == (needs, False, ())


def test_where_a_call_came_from_decides_what_its_arguments_leave_open(site: Site) -> None:
    text = LOCATED.replace("when: '", "when: 'args.amount > 1 && ")
    found = PolicyDirectory(site.put("candidate", text), locate=lambda _: Location(country="DE")).load()
    judged = Judge(found, IRREVERSIBLE).judge(_recorded(call("refund"), frozenset()))
    assert (judged.needs.label, judged.unanswered) == ("none", ())


def test_without_a_database_nobody_knows_where_a_recorded_call_came_from(site: Site) -> None:
    site.ask("refund", {"amount": 5})
    found = site.json("replay", "--against", str(site.put("candidate", LOCATED)))
    assert (found["new"], found["uncertain"]) == (1, 1)
    rule = "payments.yaml#tools.refund.rules[0]"
    assert found["unanswered"] == [{"rule": rule, "calls": 1, "needs": ["source.country"]}]
    told = site.run("replay", "--against", str(site.folder / "candidate")).stdout
    assert "to know source.country, name a database under [geo] in guard.toml" in told
    assert "no record holds" not in told


def test_prompts_that_everybody_approved_are_suggested_for_less_unless_the_harm_is_grave(site: Site) -> None:
    for amount in range(6):
        site.ask("refund", {"amount": 500 + amount})
    (line,) = site.json("replay")["suggestions"]
    assert line.startswith("payments refund: 6 prompts, all approved")
    grave = BEFORE.replace("    sensitivity: sensitive\n", "    sensitivity: critical\n")
    assert site.json("replay", "--against", str(site.put("candidate", grave)))["suggestions"] == []


def test_a_folder_without_a_ledger_is_said_so(site: Site) -> None:
    words = ["replay", "--ledger", str(site.folder / "tool_policies"), "--config", str(site.folder / "guard.toml")]
    assert "there is no ledger in this folder" in str(CliRunner().invoke(policy, words).exception)


def test_a_file_without_any_record_is_no_ledger(site: Site) -> None:
    file = site.folder / "notes.txt"
    file.write_text("not a record\n")
    words = ["replay", "--ledger", str(file), "--config", str(site.folder / "guard.toml")]
    assert "notes.txt holds no record" in str(CliRunner().invoke(policy, words).exception)


def test_lines_that_are_no_records_are_counted_and_names_draw_nothing(site: Site) -> None:
    file = site.exported()
    line: dict[str, Json] = {"event": "decision.made", "kind": "tool", "tool": "a\x1b[2J|`b`", "decision": "permit"}
    line |= {"time": "2026-01-01T00:00:00.000000Z", "server": "payments", "args": {}}
    deep = '{"a":' * 5000 + "1" + "}" * 5000
    noise = ["not json", "[]", "x" * 50_000, deep, '{"event":"decision.made","time":"noon"}']
    odd: list[dict[str, Json]] = [
        line,
        line | {"args": {"a": [[[[[[[[[[[1]]]]]]]]]]]}},
        line | {"findings": [{"band": 1}, 2], "reasons": 3},
        line | {"server": 5, "principal": None, "event": "challenge.opened"},
    ]
    file.write_text("\n".join([*noise, *map(json.dumps, odd)]) + "\n")
    told = site.run("replay", "--ledger", str(file)).stdout
    assert told.startswith("3 calls:")
    assert re.search(r"\d lines are no records", told)
    assert "\x1b" not in told
    assert "\x1b" not in site.run("replay", "--ledger", str(file), "--markdown").stdout


def test_another_tag_of_an_inner_tool_is_news_about_the_tool_that_runs_it() -> None:
    def judge(level: str) -> Judge:
        text = f"server: payments\ntools:\n  run: {{runs: {{tool: args.name}}}}\n  wipe: {{sensitivity: {level}}}\n"
        found, mistakes = read_policy(text.encode(), "payments.yaml")
        assert found is not None, mistakes
        return Judge(PolicySet({"payments": found}, level), IRREVERSIBLE)

    one = replace(_recorded(call("run", {"name": "wipe"}), frozenset()), revision="internal")
    before = judge("internal")
    assert not before.judge(one).uncertain
    assert judge("critical").after(before)(one).uncertain


PARTS = ['args.a == "x"', "args.n > 2", "has(args.b)", 'args.a in ["x", "y"]', "args.n != 3", 'args.b.startsWith("q")']
CONDITIONS = st.recursive(
    st.sampled_from(PARTS),
    lambda inner: st.one_of(
        st.builds("({}) && ({})".format, inner, inner),
        st.builds("({}) || ({})".format, inner, inner),
        st.builds("!({})".format, inner),
    ),
    max_leaves=4,
)
ARGUMENTS = st.fixed_dictionaries(
    {}, optional={"a": st.sampled_from(["x", "y", "z"]), "n": st.integers(1, 4), "b": st.sampled_from(["q", "r"])}
)
REDACTOR = Redactor(b"k" * 32)


@settings(deadline=None)
@given(condition=CONDITIONS, arguments=ARGUMENTS, log=st.frozensets(st.sampled_from("abn")), key=st.booleans())
def test_a_replayed_requirement_is_never_less_than_the_real_one_and_the_same_where_it_is_certain(
    condition: str, arguments: dict[str, Json], log: frozenset[str], key: bool
) -> None:
    rules = f"rules: [{{when: {json.dumps(condition)}, sensitivity: internal, require: consent}}]"
    found, mistakes = read_policy(
        f"server: payments\ntools:\n  refund: {{sensitivity: critical, {rules}}}\n".encode(), "p.yaml"
    )
    assert found is not None, mistakes
    policies = PolicySet({"payments": found}, "r")
    asked = call("refund", arguments)
    truth = required(classify(policies, asked, now=0.0), (), irreversible=IRREVERSIBLE)[0]
    judged = Judge(policies, IRREVERSIBLE, _digest if key else None).judge(_recorded(asked, log))
    assert (judged.needs | truth).irreducible == judged.needs.irreducible
    if not judged.uncertain:
        assert judged.needs.label == truth.label


def _digest(value: Json) -> str:
    found = REDACTOR.arguments({"v": value}, frozenset())
    assert isinstance(found, dict)
    digested = found["v"]
    assert isinstance(digested, dict)
    return str(digested["hmac"])


def _recorded(asked: Call, log: frozenset[str]) -> Recorded:
    kept: list[dict[str, Json]] = []

    class Memory:
        def append(self, event: str, fields: Mapping[str, Json], shared: Mapping[str, Json] | None = None) -> int:
            kept.append({"event": event, "time": "2026-01-01T00:00:00.000000Z", **(shared or {}), **fields})
            return len(kept)

        note = append

        async def append_durably(self, event: str, fields: Mapping[str, Json]) -> int:
            return self.append(event, fields)

    tags = replace(classify(PolicySet(), asked, now=0.0), log=log)
    settings = Settings(irreversible=IRREVERSIBLE, expires=300)
    Journal(Memory(), REDACTOR).decided(
        Judged(call=asked, classification=tags, findings=()), decide(asked, tags, (), (), 0.0, settings=settings)
    )
    (one,) = read(Entry("", 0, str(record["time"]), str(record["event"]), record, b"") for record in kept).calls
    return one
