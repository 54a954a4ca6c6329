"""Who may call, from where, in which environment, what runs inside, and that none of it lowers what is required."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guard.config import IRREVERSIBLE
from guard.decide import Settings, decide
from guard.model import (
    Call,
    Classification,
    Demand,
    Deny,
    Json,
    Principal,
    Proof,
    ProofClass,
    Requirement,
    Sensitivity,
    Source,
)
from guard.policy.classify import PolicySet, classify
from guard.policy.document import Policy
from guard.policy.reading import read
from guard.policy.windows import Window, recurrence, zone
from guard.reasons import Code
from guard.requirement import required, satisfied

NOW = datetime(2026, 11, 25, 12, 30, tzinfo=UTC).timestamp()  # a Wednesday
ROBOT = Principal(subject="robot", credential="c", owner="ann")


def policy(text: str) -> Policy:
    found, mistakes = read(f"server: vault\nowner: security\n{text}".encode(), "vault.yaml")
    assert [str(one) for one in mistakes] == []
    assert found is not None
    return found


def mistakes(text: str) -> str:
    found, said = read(f"server: vault\n{text}".encode(), "vault.yaml")
    assert found is None
    return "\n".join(str(one) for one in said)


def policies(text: str, **settings: str) -> PolicySet:
    named = {"" if name == "deployment" else name: value for name, value in settings.items()}
    return PolicySet(MappingProxyType({"vault": policy(text)}), "r1", MappingProxyType(named))


def call(
    name: str = "t",
    arguments: Mapping[str, Json] | None = None,
    *,
    who: Principal = ROBOT,
    address: str = "10.1.2.3",
    kind: str = "tool",
) -> Call:
    transport = "http" if address else "stdio"
    return Call(
        id="k_" + "0" * 22, principal=who, source=Source(transport=transport, address=address), server="vault",
        method="tools/call", kind=kind, name=name, arguments=arguments or {}, canonical="", definition="", digest="d",
        received=NOW,
    )  # fmt: skip


def codes(found: Classification) -> list[Code]:
    return [reason.code for reason in found.reasons]


def sensitivity(known: PolicySet, asked: Call) -> str:
    return classify(known, asked, now=NOW).sensitivity.label


# ------------------------------------------------------------------ who may call

CALLERS = """
callers: {agents: [robot, "ci-*"], groups: release, reason: only automation touches the vault}
tools:
  t: {sensitivity: public}
  rotate: {sensitivity: public, callers: {groups: [release, admins]}}
"""


@pytest.mark.parametrize(
    ("who", "may"),
    [
        (ROBOT, True),
        (replace(ROBOT, subject="ci-7"), True),
        (replace(ROBOT, subject="eve"), False),
        (replace(ROBOT, subject="Robot"), False),
        (replace(ROBOT, subject="eve", groups=frozenset({"release"})), True),
        (replace(ROBOT, subject="eve", groups=frozenset({"admins"})), False),
        (replace(ROBOT, subject="eve", on_behalf_of="robot"), False),
    ],
)
@pytest.mark.parametrize("name", ["t", "nobody_named_this"])
def test_an_agent_that_the_owner_does_not_name_is_refused_in_the_owners_words(
    who: Principal, may: bool, name: str
) -> None:
    asked = call(name, who=who)
    found = classify(policies(CALLERS), asked, now=NOW)
    decision = decide(asked, found, (), (), NOW, settings=Settings(irreversible=frozenset(), expires=60))
    assert isinstance(decision, Deny) is not may
    if isinstance(decision, Deny):
        assert decision.code is Code.NOT_ALLOWED
        assert str(decision.reasons[0]).endswith("(security): only automation touches the vault")


def test_an_entry_lets_call_only_whom_the_file_lets_call_too() -> None:
    known = policies(CALLERS)
    admin = replace(ROBOT, groups=frozenset({"admins"}))
    assert classify(known, call("rotate", who=admin), now=NOW).refusal is None
    assert classify(known, call("rotate", who=ROBOT), now=NOW).refusal is not None
    assert classify(known, call("rotate", who=replace(admin, subject="eve")), now=NOW).refusal is not None


def test_callers_hold_for_resources_and_prompts_and_let_the_protocol_pass() -> None:
    eve, known = replace(ROBOT, subject="eve"), policies(CALLERS)
    for kind in ("resource", "prompt"):
        assert classify(known, call("x", kind=kind, who=eve), now=NOW).refusal is not None
    assert classify(known, call("ping", kind="protocol", who=eve), now=NOW).refusal is None


def test_no_changed_definition_or_hint_takes_a_refusal_away() -> None:
    found = classify(
        policies(CALLERS), call(who=replace(ROBOT, subject="eve")), now=NOW, definition_changed=True,
        hint_destructive=True,
    )  # fmt: skip
    assert found.refusal is not None


# ------------------------------------------------------------------ networks, claims, the age of a key

CALLER = """
networks: {office: ["10.0.0.0/8", "2001:db8::/32"], vpn: "192.0.2.7"}
tools:
  near: {sensitivity: critical, rules: [{when: "networks.office || networks.vpn", sensitivity: public}]}
  far: {sensitivity: public, rules: [{when: "!networks.office", sensitivity: critical, reason: from outside}]}
  local: {sensitivity: critical, rules: [{when: 'source.transport == "stdio" || networks.office', sensitivity: public}]}
  managed: {sensitivity: critical, rules: [{when: 'principal.claims.posture == "managed"', sensitivity: public}]}
  grouped: {sensitivity: critical, rules: [{when: '"release" in principal.groups', sensitivity: public}]}
  fresh: {sensitivity: critical, rules: [{when: 'credential.age < duration("720h")', sensitivity: public}]}
"""


@pytest.mark.parametrize(
    ("name", "asked", "expected"),
    [
        ("near", call("near"), "public"),
        ("near", call("near", address="2001:db8::1"), "public"),
        ("near", call("near", address="::ffff:10.1.2.3"), "public"),
        ("near", call("near", address="192.0.2.7"), "public"),
        ("near", call("near", address="192.0.2.8"), "critical"),
        ("far", call("far"), "public"),
        ("far", call("far", address="203.0.113.9"), "critical"),
        ("local", call("local", address=""), "public"),
        ("managed", call("managed", who=replace(ROBOT, claims=(("posture", "managed"),))), "public"),
        ("managed", call("managed", who=replace(ROBOT, claims=(("posture", "Managed"),))), "critical"),
        ("grouped", call("grouped", who=replace(ROBOT, groups=frozenset({"release"}))), "public"),
        ("grouped", call("grouped"), "critical"),
        ("fresh", call("fresh", who=replace(ROBOT, since=NOW - 86_400)), "public"),
        ("fresh", call("fresh", who=replace(ROBOT, since=NOW - 31 * 86_400)), "critical"),
    ],
)
def test_conditions_ask_where_a_caller_is_and_what_is_known_of_it(name: str, asked: Call, expected: str) -> None:
    assert sensitivity(policies(CALLER), asked) == expected


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        (call("near", address=""), "not known"),
        (call("far", address=""), "not known"),
        (call("far", address="no address"), "not known"),
        (call("managed"), "not known"),
        (call("fresh"), "not known"),
        (call("fresh", who=replace(ROBOT, since=NOW + 86_400)), "not known"),
    ],
)
def test_what_is_not_known_of_a_caller_counts_as_the_stricter_branch(asked: Call, why: str) -> None:
    found = classify(policies(CALLER), asked, now=NOW)
    assert found.sensitivity is Sensitivity.CRITICAL
    assert found.reasons[-1].code is Code.RULE_FAILED
    assert why in found.reasons[-1].evidence


# ------------------------------------------------------------------ environments

ENVIRONMENT = """
environment:
  from: {origin}
  names: {{production: [prod, "prod-*", "*-live"], staging: ["stage-*"]}}
tools:
  t:
    sensitivity: sensitive
    rules:
      - {{environments: staging, sensitivity: internal, reason: nobody depends on staging}}
      - {{environments: production, require: consent, reason: production}}
      - {{environments: production, when: args.rows > 10, require: two_people, reason: many rows}}
  asked: {{sensitivity: public, rules: [{{when: 'environment == "production"', sensitivity: critical}}]}}
  other: {{environment: args.target.env, rules: [{{environments: staging, sensitivity: public}}]}}
"""
BY_ARGUMENT = ENVIRONMENT.format(origin="args.cluster")


def test_rules_apply_in_the_environment_that_an_argument_names() -> None:
    known = policies(BY_ARGUMENT)
    staging = classify(known, call(arguments={"cluster": "stage-eu"}), now=NOW)
    assert (staging.sensitivity, staging.demands) == (Sensitivity.INTERNAL, frozenset())
    production = classify(known, call(arguments={"cluster": "prod-eu", "rows": 3}), now=NOW)
    assert (production.sensitivity, production.demands) == (Sensitivity.SENSITIVE, {Demand.CONSENT})
    assert production.reasons[-1].evidence == "production"
    many = classify(known, call(arguments={"cluster": "prod", "rows": 30}), now=NOW)
    assert many.demands == {Demand.CONSENT, Demand.TWO_PEOPLE}
    assert sensitivity(known, call("asked", {"cluster": "prod"})) == "critical"
    assert sensitivity(known, call("asked", {"cluster": "stage-1"})) == "public"
    assert sensitivity(known, call("other", {"target": {"env": "stage-1"}, "cluster": "prod"})) == "public"


@pytest.mark.parametrize(
    "cluster", [None, "", "PROD", "prod ", "test", "prod-live", "stage-live", 7, ["prod"], {"a": 1}, "s" * 5000]
)
def test_an_environment_that_no_name_claims_or_two_do_is_as_strict_as_any(cluster: Json) -> None:
    known = policies(BY_ARGUMENT)
    arguments: dict[str, Json] = {} if cluster is None else {"cluster": cluster}
    if cluster == "prod-live":  # one name twice is one name
        assert classify(known, call(arguments=arguments), now=NOW).demands >= {Demand.CONSENT}
        return
    found = classify(known, call(arguments=arguments | {"rows": 30}), now=NOW)
    assert found.sensitivity is Sensitivity.SENSITIVE
    assert found.demands == {Demand.CONSENT, Demand.TWO_PEOPLE}
    assert "the environment is not known" in str(found.reasons[-1])
    assert sensitivity(known, call("asked", arguments)) == "critical"


def test_the_settings_name_the_environment_of_a_server_or_of_the_deployment() -> None:
    of_server, of_deployment = (ENVIRONMENT.format(origin=one) for one in ("server", "deployment"))
    assert sensitivity(policies(of_server, vault="stage-1"), call()) == "internal"
    assert sensitivity(policies(of_server, deployment="stage-1"), call()) == "sensitive"
    assert sensitivity(policies(of_deployment, deployment="stage-1", vault="prod"), call()) == "internal"
    assert sensitivity(policies(of_deployment), call(arguments={"cluster": "stage-1"})) == "sensitive"


# ------------------------------------------------------------------ tools that run tools

META = """
default: {sensitivity: internal}
tools:
  execute: {sensitivity: internal, log: name, runs: {tool: args.name, arguments: args.input.arguments}}
  batch: {sensitivity: public, runs: {each: args.calls, tool: name, arguments: arguments}}
  far: {sensitivity: public, runs: {tool: args.name, server: args.server}}
  look: {sensitivity: public, effects: read, log: path}
  wipe:
    sensitivity: sensitive
    effects: destroy
    require: possession
    rules: [{when: 'args.scope == "all"', sensitivity: critical, require: two_people, reason: everything goes}]
  secret: {sensitivity: public, callers: {agents: admin}}
"""


def test_what_a_tool_is_told_to_run_counts_as_if_it_were_called_itself() -> None:
    known = policies(META)
    found = classify(known, call("execute", {"name": "wipe", "input": {"arguments": {"scope": "all"}}}), now=NOW)
    assert found.sensitivity is Sensitivity.CRITICAL
    assert found.effects == {"destroy"}
    assert found.demands == {Demand.POSSESSION, Demand.TWO_PEOPLE}
    assert found.rule == "vault.yaml#tools.wipe.rules[0]"
    assert found.log == {"name"}
    assert codes(found).count(Code.INNER_CALL) == 1
    text = json.dumps({"scope": "all"})
    assert sensitivity(known, call("execute", {"name": "wipe", "input": {"arguments": text}})) == "critical"
    assert sensitivity(known, call("execute", {"name": "look", "input": {"arguments": {}}})) == "internal"
    calls: list[Json] = [{"name": "look"}, {"name": "wipe", "arguments": {"scope": "one"}}]
    assert sensitivity(known, call("batch", {"calls": calls})) == "sensitive"
    assert sensitivity(known, call("batch", {"calls": []})) == "public"


def test_an_inner_tool_that_no_entry_names_needs_a_step_up_as_ever() -> None:
    found = classify(policies(META), call("execute", {"name": "new", "input": {"arguments": {}}}), now=NOW)
    assert found.demands == {Demand.STEP_UP}
    assert not found.tagged
    elsewhere = classify(policies(META), call("far", {"name": "look", "server": "elsewhere"}), now=NOW)
    assert (elsewhere.sensitivity, elsewhere.demands) == (Sensitivity.SENSITIVE, {Demand.STEP_UP})


def test_who_may_not_call_a_tool_may_not_have_it_run_either() -> None:
    assert classify(policies(META), call("far", {"name": "secret", "server": "vault"}), now=NOW).refusal is not None


def test_people_of_both_groups_are_asked_when_the_inner_tool_has_another_group() -> None:
    known = policies("""
tools:
  run: {sensitivity: critical, approvers: platform, runs: {tool: args.name}}
  soft: {sensitivity: internal, require: two_people, approvers: platform, runs: {tool: args.name}}
  rotate: {sensitivity: critical, approvers: security}
  look: {sensitivity: internal, require: consent, approvers: security}
  plain: {sensitivity: internal, approvers: security}
""")
    for outer, inner, groups in (
        ("run", "rotate", {"security", "platform"}),
        ("run", "look", {"platform", "security"}),
        ("run", "plain", {"platform"}),
        ("soft", "rotate", {"security", "platform"}),
        ("rotate", "", {"security"}),
    ):
        found = _asked(classify(known, call(outer, {"name": inner}), now=NOW))
        assert found.groups == groups, (outer, inner)
    both = classify(known, call("soft", {"name": "rotate"}), now=NOW)
    assert {(one.group, one.people) for one in both.quorums} == {("platform", 2), ("security", 1)}


def test_neither_group_alone_can_give_the_consent_of_the_other() -> None:
    known = policies("""
approvers: devs
tools:
  batch: {sensitivity: internal, require: consent, runs: {each: args.calls, tool: name}}
  refund: {sensitivity: critical, effects: move_money, require: consent, approvers: finance}
  free: {sensitivity: critical, effects: move_money, approvers: finance}
""")

    def vote(name: str, group: str) -> Proof:
        asked = frozenset({group})
        return Proof(proof_class=ProofClass.CONSENT, kind="webauthn", factor=name, subject=name, at=NOW, groups=asked)

    for inner in ("refund", "free"):
        needs = _asked(classify(known, call("batch", {"calls": [{"name": inner}]}), now=NOW))
        assert not satisfied(needs, [vote("dev", "devs"), vote("dev2", "devs")], NOW)
        assert not satisfied(needs, [vote("fin", "finance")], NOW)
        assert satisfied(needs, [vote("dev", "devs"), vote("fin", "finance")], NOW)


def test_calls_within_calls_are_counted_together_and_too_many_cannot_be_told() -> None:
    known = policies("""
tools:
  batch: {sensitivity: public, runs: {each: args.calls, tool: name, arguments: arguments}}
  note: {sensitivity: public}
""")

    def nested(wide: int, deep: int) -> dict[str, Json]:
        inner: dict[str, Json] = {"name": "batch", "arguments": nested(wide, deep - 1)} if deep else {"name": "note"}
        return {"calls": [inner] * wide}

    assert sensitivity(known, call("batch", nested(5, 1))) == "public"
    assert sensitivity(known, call("batch", nested(8, 1))) == "critical"
    assert sensitivity(known, call("batch", nested(40, 2))) == "critical"


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("execute", {}),
        ("execute", {"name": ["wipe"]}),
        ("execute", {"name": "wipe "}),
        ("execute", {"name": "wipe\n"}),
        ("execute", {"name": "w\u0131pe"}),
        ("execute", {"name": "*"}),
        ("far", {"name": "look", "server": " vault"}),
        ("execute", {"name": "look", "input": {"arguments": "{"}}),
        ("execute", {"name": "look", "input": {"arguments": '{"a":1,"a":2}'}}),
        ("execute", {"name": "look", "input": {"arguments": None}}),
        ("execute", {"name": "look", "input": {"arguments": [1]}}),
        ("batch", {}),
        ("batch", {"calls": "look"}),
        ("batch", {"calls": [{"name": "look"}, {"tool": "wipe"}]}),
        ("batch", {"calls": [{"name": "look"}] * 65}),
        ("far", {"name": "look"}),
    ],
)
def test_what_cannot_be_told_about_an_inner_call_makes_it_critical(name: str, arguments: dict[str, Json]) -> None:
    found = classify(policies(META), call(name, arguments), now=NOW)
    assert found.sensitivity is Sensitivity.CRITICAL
    assert found.demands >= {Demand.STEP_UP}
    assert Code.INNER_UNKNOWN in codes(found)


def test_tools_that_run_each_other_are_followed_a_few_steps_and_no_further() -> None:
    nested: Json = {"name": "look"}
    for _ in range(50):
        nested = {"name": "execute", "input": {"arguments": nested}}
    assert isinstance(nested, dict)
    found = classify(policies(META), call("execute", nested), now=NOW)
    assert found.sensitivity is Sensitivity.CRITICAL
    assert Code.INNER_UNKNOWN in codes(found)


# ------------------------------------------------------------------ windows that recur


def opens(window: Window, text: str) -> bool:
    return window.open(datetime.fromisoformat(text).timestamp())


def test_a_window_recurs_as_calendars_write_it_on_the_wall_clock_of_its_zone() -> None:
    text = """
windows:
  patch: {zone: Europe/Berlin, recurs: "FREQ=MONTHLY;BYDAY=2TU", hours: "22:00-04:00"}
  sprint: {zone: UTC, recurs: "FREQ=WEEKLY;INTERVAL=2;BYDAY=MO", dates: "2026-11-02..2027-10-31"}
  freeze: {zone: UTC, dates: ["2026-12-20..2027-01-06", "2027-03-31"]}
"""
    windows = policy(text).declared.windows
    patch, sprint, freeze = windows["patch"], windows["sprint"], windows["freeze"]
    assert opens(patch, "2026-12-08T22:30+01:00")
    assert opens(patch, "2026-12-09T03:59+01:00")
    assert not opens(patch, "2026-12-09T04:00+01:00")
    assert not opens(patch, "2026-12-01T22:30+01:00")
    assert opens(patch, "2027-07-13T22:30+02:00")
    assert opens(sprint, "2026-11-16T12:00+00:00")
    assert not opens(sprint, "2026-11-09T12:00+00:00")
    assert opens(sprint, "2027-10-18T12:00+00:00")
    assert not opens(sprint, "2027-11-01T12:00+00:00")
    assert opens(freeze, "2027-03-31T12:00+00:00")
    assert not opens(freeze, "2027-02-01T12:00+00:00")


def test_daylight_saving_moves_a_recurring_window_with_the_clock_on_the_wall() -> None:
    window = Window(zone=zone("Europe/Berlin"), start=120, end=180, recurs="FREQ=YEARLY;BYMONTH=3;BYDAY=-1SU")
    assert not opens(window, "2027-03-28T00:59+00:00")
    assert not opens(window, "2027-03-28T01:00+00:00")  # 02:00 to 03:00 does not exist that night
    autumn = replace(window, recurs="FREQ=YEARLY;BYMONTH=10;BYDAY=-1SU")
    assert opens(autumn, "2027-10-31T00:30+00:00")
    assert opens(autumn, "2027-10-31T01:30+00:00")


@pytest.mark.parametrize(
    ("rule", "first", "said"),
    [
        ("FREQ=SECONDLY", None, "FREQ is one of"),
        ("every tuesday", None, "is written like"),
        ("FREQ=MONTHLY", None, "say on which days"),
        ("FREQ=DAILY;INTERVAL=2", None, "needs a first day"),
        ("FREQ=DAILY;INTERVAL=0", date(2026, 1, 1), "may have"),
        ("FREQ=WEEKLY;BYDAY=MO;BYDAY=TU", None, "each once"),
        ("FREQ=WEEKLY;BYDAY=2MO", None, "of a month or year"),
        ("FREQ=WEEKLY;BYDAY=MO;COUNT=3", None, "may have"),
        ("FREQ=WEEKLY;BYDAY=MO\nRRULE:FREQ=SECONDLY", None, "may have"),
        ("FREQ=YEARLY;BYMONTH=2;BYMONTHDAY=30", None, "no such day"),
        ("FREQ=MONTHLY;BYDAY=MO;BYSETPOS=400", None, "cannot be worked out"),
        ("FREQ=MONTHLY;BYMONTHDAY=1", date(1000, 1, 1), "or later"),
    ],
)
def test_a_recurrence_that_is_wrong_or_never_comes_true_is_a_mistake(rule: str, first: date | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        recurrence(rule, first)


# ------------------------------------------------------------------ mistakes

STAGING = "environment: {from: args.x, names: {staging: v}}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("callers: {}", "names nobody"),
        ("callers: {agent: robot}", 'did you mean "agents"'),
        ("callers: {agents: 'r\u00f6bot'}", "cannot stand in the agent"),
        ("networks: {office: 10.0.0.1/8}", 'write "10.0.0.0/8"'),
        ("networks: {office: everywhere}", "is written like"),
        ("networks: {office: []}", "a network is one address range"),
        ("networks: {Office: 10.0.0.0/8}", "small letters"),
        ("environment: {from: args.x}", "names is missing"),
        ("environment: {from: x, names: {a: b}}", "write the argument"),
        ("environment: {from: args.x, names: {a: v, b: v}}", "is that of a already"),
        ("tools: {t: {rules: [{environments: staging, require: consent}]}}", "declares no environment"),
        ("tools: {t: {environment: args.x}}", "declares no environment"),
        ("tools: {t: {rules: [{when: environment == 'a', require: consent}]}}", "declares no environment"),
        (
            STAGING + "tools: {t: {rules: [{environments: stagin, require: consent}]}}",
            'did you mean "staging"',
        ),
        (
            STAGING + "tools: {t: {rules: [{when: environment == 'prod', require: consent}]}}",
            "there is no environment 'prod'",
        ),
        ("tools: {t: {rules: [{when: networks.home, require: consent}]}}", "networks has no member"),
        ("tools: {t: {rules: [{when: principal.claims, require: consent}]}}", "name the claim"),
        ("tools: {t: {rules: [{when: credential.kind == 'x', require: consent}]}}", "credential has no member"),
        ("tools: {t: {runs: {arguments: args.x}}}", "runs needs tool"),
        ("tools: {t: {runs: {tool: name}}}", "is a path such as args.tool.name"),
        ("tools: {t: {runs: {tool: args}}}", "is a path"),
        ("limits: {calls: 3}", "per is missing"),
        ("limits: {calls: -1, per: 1h}", "calls is a whole number"),
        ("limits: {calls: 3, per: hourly}", "per is a number and a unit"),
        ("limits: {calls: 3, per: 1h, require: []}", "limits nothing"),
        ("windows: {w: {zone: UTC, recurs: 'FREQ=MONTHLY'}}", "say on which days"),
    ],
)
def test_a_mistake_says_what_to_write_instead(text: str, said: str) -> None:
    assert said in mistakes(text)


# ------------------------------------------------------------------ monotone

RULES = st.lists(
    st.sampled_from(
        [
            "{when: args.x > 1, sensitivity: internal}",
            "{environments: staging, sensitivity: public}",
            "{environments: production, require: consent}",
            "{when: networks.office, sensitivity: internal}",
            "{when: '!networks.office', require: possession}",
            "{when: 'credential.age > duration(\"1h\")', effects: egress, require: step_up}",
        ]
    ),
    max_size=3,
)
CALLS = st.builds(
    lambda x, cluster, address, inner: call(
        arguments={"x": x, "cluster": cluster, "inner": inner, "args": {"x": x}}, address=address
    ),
    st.sampled_from([0, 2, "two"]),
    st.sampled_from(["prod", "stage", "other"]),
    st.sampled_from(["10.0.0.1", "203.0.113.1", ""]),
    st.sampled_from(["plain", "wipe", "unknown", 5]),
)
MORE = st.sampled_from(
    [
        "callers: {agents: nobody}",
        "runs: {tool: args.inner, arguments: args.args}",
        "limits: {calls: 1, per: 1h}",
        "require: two_people",
        "effects: destroy",
    ]
)


def _asked(found: Classification) -> Requirement:
    return required(found, (), irreversible=frozenset(IRREVERSIBLE))[0]


@settings(max_examples=80, deadline=None)
@given(RULES, MORE, CALLS, st.sampled_from(Sensitivity))
def test_nothing_that_is_added_to_a_tag_lowers_what_is_required(
    rules: list[str], more: str, asked: Call, base: Sensitivity
) -> None:
    text = f"""
networks: {{office: 10.0.0.0/8}}
environment: {{from: args.cluster, names: {{production: prod, staging: stage}}}}
tools:
  t: {{sensitivity: {base.label}, rules: [{", ".join(rules)}]{{more}}}}
  plain: {{sensitivity: public}}
  wipe: {{sensitivity: sensitive, require: consent, rules: [{{when: args.x > 1, require: two_people}}]}}
"""
    before = classify(policies(text.replace("{more}", "")), asked, now=NOW)
    after = classify(policies(text.replace("{more}", f", {more}")), asked, now=NOW)
    left, right = _asked(before), _asked(after)
    assert after.sensitivity >= before.sensitivity
    assert after.effects >= before.effects
    assert {*after.limits} >= {*before.limits}
    assert right.groups >= left.groups or not left.irreducible & {Demand.CONSENT, Demand.TWO_PEOPLE}
    assert right.quorums >= left.quorums
    assert right.demands >= left.demands
    assert right.barred >= left.barred
    assert right.strict or not left.strict
    assert after.refusal is not None or before.refusal is None
