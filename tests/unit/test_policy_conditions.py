"""What conditions see, and what they may not do."""

from __future__ import annotations

from datetime import UTC, datetime

import cel
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from guard.model import Call, Json, Principal, Source
from guard.policy.conditions import Failure, compile_condition, evaluate
from guard.policy.expression import SyntaxMistake
from guard.policy.facts import MAX_TEXT, MAX_VALUES, Asked, Declared
from guard.policy.scope import MAX_QUANTIFIERS, Known
from guard.policy.windows import Window, dates, days, hours, zone

NOW = datetime(2026, 11, 25, 12, 30, tzinfo=UTC).timestamp()  # a Wednesday


def call(arguments: dict[str, Json], **more: str) -> Call:
    return Call(
        id="k_1",
        principal=Principal(subject="robot", credential="c", owner=more.get("owner", "ann")),
        source=Source(transport="http", address="10.0.0.1", client="x"),
        server="vault",
        method="tools/call",
        kind="tool",
        name=more.get("name", "vault.read"),
        arguments=arguments,
        canonical="",
        definition="",
        digest="",
        received=NOW,
    )


def holds(
    text: str, arguments: dict[str, Json] | None = None, windows: dict[str, Window] | None = None
) -> bool | Failure:
    known = windows or {}
    condition = compile_condition(text, Known(windows=frozenset(known)))
    return evaluate(condition, Asked(call=call(arguments or {}), now=NOW), Declared(windows=known))


@pytest.mark.parametrize(
    ("text", "arguments", "expected"),
    [
        ('args.env == "staging"', {"env": "staging"}, True),
        ('args.env == "staging"', {"env": "Staging"}, False),
        ('args["env"] == "staging" && args.amount > 10000', {"env": "staging", "amount": 10001}, True),
        ("args.amount > 10000", {"amount": 10001.0}, True),
        ("args.amount + 1 == 10002", {"amount": 10001.0}, True),
        ("args.amount > 10000", {"amount": 10000.5}, True),
        ("has(args.env)", {}, False),
        ("has(args.env)", {"env": None}, True),
        ('has(args.env) && args.env == "x"', {}, False),
        ('args.a.b["c d"] == 1', {"a": {"b": {"c d": 1, "e": 2}}}, True),
        ('args.env in ["dev", "staging"]', {"env": "dev"}, True),
        ('args.env in ["dev", 7]', {"env": 7.0}, True),
        ("args.n == 1.5", {"n": 1}, False),
        ('args.tags == ["prod"]', {"tags": ["prod"]}, True),
        ('"prod" in args.tags', {"tags": ["prod"]}, True),
        ('"prod" in args.tags', {"tags": {"prod": 1}}, True),
        ('args.to.exists(a, a == "eve" || a == 7)', {"to": [7, "ann"]}, True),
        ('args.to.exists(a, a.name == "eve")', {"to": [{"name": "eve"}]}, True),
        ('args.env != null && args.env == "prod"', {"env": None}, False),
        ('has(args.env) && args.env == "prod"', {}, False),
        ('args.env == "prod" || size(args.env) > 3', {"env": ["a", "b", "c", "d"]}, True),
        ('args.paths.exists(p, p.startsWith("/etc/"))', {"paths": ["/srv/x", "/etc/passwd"]}, True),
        ("args.items.all(i, i.price < 10)", {"items": [{"price": 1}, {"price": 9.5}]}, True),
        ("size(args.name) > 3 ? args.flag : false", {"name": "long", "flag": True}, True),
        (r'args.host.matches(r"^[a-z]+\.example$")', {"host": "api.example"}, True),
        ('principal.subject == "robot" && principal.owner == "ann"', {}, True),
        ('source.address.startsWith("10.") && source.transport == "http"', {}, True),
        ('server == "vault" && tool == "vault.read"', {}, True),
        ('now > timestamp("2026-01-01T00:00:00Z")', {}, True),
    ],
)
def test_a_condition_means_what_it_says(text: str, arguments: dict[str, Json], expected: bool) -> None:
    assert holds(text, arguments) is expected


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('args.env == "staging"', {}),
        ("args.amount > 10000", {"amount": "20000"}),
        ("args.amount > 10000", {"amount": 2**70 + 1}),
        ("args.a.b == 1", {"a": "text"}),
        ("args.flag", {"flag": 1}),
        ('args.env == "production"', {"env": ["production"]}),
        ('args.env != "staging" && args.env == "production"', {"env": ["production"]}),
        ("args.force == true", {"force": "true"}),
        ("true == args.force", {"force": 1}),
        ("args.amount == 1", {"amount": True}),
        ("args.account in [17, 18]", {"account": "17"}),
        ('args.to.bank in ["a", "b"]', {"to": {"bank": None}}),
        ('args.tags == ["prod"]', {"tags": "prod"}),
        ("17 in args.accounts", {"accounts": ["17"]}),
        ("args.accounts.exists(a, a == 17)", {"accounts": [1, "17"]}),
        ('!args.to.all(a, a in ["ann", "ben"])', {"to": [["eve"]]}),
        ("10 / args.n > 1", {"n": 0}),
        ("int(args.n) > 1", {"n": "secret-value"}),
        ("size(args.list) > 1", {"list": [1] * (MAX_VALUES + 1)}),
        ('args.text.contains("x")', {"text": "y" * (MAX_TEXT + 1)}),
        ("args.xs.all(x, x == args.text)", {"xs": [1], "text": "y" * (MAX_TEXT // 4 + 1)}),
    ],
)
def test_what_cannot_be_told_is_a_failure_that_quotes_no_value(text: str, arguments: dict[str, Json]) -> None:
    verdict = holds(text, arguments)
    assert isinstance(verdict, Failure)
    assert "secret-value" not in verdict.why


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("args", "name the argument"),
        ("size(args) > 2", "name the argument"),
        ("args[args.key] == 1", "name the argument"),
        ("[args] == []", "name the argument"),
        ("arguments.x == 1", 'did you mean "args"'),
        ("amount > 1", "args.amount"),
        ('principal.email == "x"', "no member"),
        ("source.client == 'x'", "no member"),
        ("windows.busines", 'did you mean "business"'),
        ("args.x.startWith('a')", 'did you mean "startsWith"'),
        ("args.x.matches(args.y)", "written out"),
        ("args.x.matches('((')", "not valid"),
        ("args.xs.all(a, args.xs.all(b, a == b))", "quantifier"),
        ("args.xs.all(a, size(" + "args.t+" * 120 + "args.t) > 1)", "at most 16"),
        ("args.xs.all(a, args.t.matches('x') || args.t.matches('y') || args.t.contains('z'))", "for each value"),
        (" || ".join(["args.xs.all(a, a > 1)"] * 4), "at most 3 quantifiers"),
        ("args.xs.exists(now, now == 1)", "already means something"),
        ("args.x = 1", '"=="'),
        ("args.x + 1", "true or false"),
        ('"yes"', "true or false"),
        ("args.xs.map(x, x)", "no function map"),
        ("args.x ==", "not expected"),
        ("has(args)", "one path"),
        ("(" * 200 + "true" + ")" * 200, "nested"),
        ("true " + " " * 1000, "at most"),
        ('args.x == "\\q"', "escape"),
        ("args.x == 0x1F", "decimal"),
        ("b'x' == args.x", "not expected"),
        (".args.x == 1", "not expected"),
    ],
)
def test_what_a_condition_may_not_say_is_found_when_the_file_is_read(text: str, says: str) -> None:
    with pytest.raises(SyntaxMistake) as caught:
        compile_condition(text, Known(windows=frozenset({"business"})))
    assert says in str(caught.value)


def test_only_named_paths_reach_the_engine() -> None:
    condition = compile_condition('args.a.b == 1 && has(args.a.b.c) && args.d["e f"] == args.xs[0].y')
    assert condition.names.paths == (("a", "b"), ("d", "e f"), ("xs",))
    huge: dict[str, Json] = {"amount": 1, "body": "x" * 10_000_000, "list": [0] * 100_000}
    assert holds("args.amount == 1", huge) is True


TERMS = [
    *(
        "args.a > 1",
        "args.a == 1",
        'args.b == "x"',
        "args.c.d == 1",
        'args["c"].d == 1',
        "has(args.c.d)",
        "has(args.a)",
    ),
    *("args.l.exists(a, a == args.a)", "args.l[0] == 1", "size(args.l) > 1", 'args.b in ["x", "args.a"]'),
    *("args.c == args.c", "args.n == null", "args.t", "!args.t", "1 / args.a > 0", 'tool == "vault.read"'),
    *("(args.a)+1==2", "args.c.d.e == 1", "has(args.c.d.e)", "args.l.all(x, has(x.d))", "args.missing == args.a"),
]
BINDS = st.sampled_from(["{} && {}", "{} || {}", "({}) ? ({}) : false", "!({}) && ({})"])
TEXTS = st.recursive(st.sampled_from(TERMS), lambda inner: st.builds(str.format, BINDS, inner, inner), max_leaves=4)
VALUES = st.fixed_dictionaries(
    {},
    optional={
        "a": st.sampled_from([0, 1, 2.5, "1", None, True]),
        "b": st.sampled_from(["x", "args.a", 1]),
        "c": st.sampled_from([{}, {"d": 1}, {"d": {"e": 1}}, "text", [1]]),
        "l": st.sampled_from([[], [1], [2, "x"], "text"]),
        "n": st.sampled_from([None, 1]),
        "t": st.booleans(),
    },
)


def mistyped(text: str, arguments: dict[str, Json]) -> bool:
    """Whether an argument is compared with what is written out and of another type: false to the engine."""
    c = arguments.get("c")
    number, word, member = arguments.get("a", 1), arguments.get("b", "x"), c.get("d", 1) if isinstance(c, dict) else 1
    return (
        ("args.a == 1" in text and (isinstance(number, bool) or not isinstance(number, int | float)))
        or ("args.b" in text and not isinstance(word, str))
        or (".d == 1" in text and not isinstance(member, int))
    )


@settings(max_examples=300, deadline=None)
@given(TEXTS, VALUES)
def test_a_condition_means_to_the_engine_what_is_written(text: str, arguments: dict[str, Json]) -> None:
    assume(text.count("args.l.") <= MAX_QUANTIFIERS)

    def plainly() -> bool | None:
        try:
            found = cel.compile(text).execute({"args": arguments, "tool": "vault.read"})
        except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError):
            return None
        return found if isinstance(found, bool) else None

    verdict = holds(text, arguments)
    assert verdict == plainly() or (isinstance(verdict, Failure) and (plainly() is None or mistyped(text, arguments)))


def test_a_pattern_that_blows_up_elsewhere_is_linear_here() -> None:
    assert holds('args.x.matches("(a+)+$")', {"x": "a" * 50_000 + "!"}) is False
    assert holds('args.x.matches("(x+x+)+y")', {"x": "x" * 50_000}) is False


numbers = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)


@settings(max_examples=60, deadline=None)
@given(numbers, st.integers(-(10**6), 10**6))
def test_numbers_that_json_writes_alike_decide_alike(number: float, bound: int) -> None:
    for operator in ("<", "==", ">="):
        as_given = holds(f"args.n {operator} {bound}", {"n": number})
        other = float(number) if isinstance(number, int) else int(number) if number == int(number) else number
        assert as_given == holds(f"args.n {operator} {bound}", {"n": other})
        assert as_given == {"<": number < bound, "==": number == bound, ">=": number >= bound}[operator]


words = st.sampled_from(
    ["args", ".", "x", "xs", "[", "]", "(", ")", '"a"', "1", "1.5", "==", "&&", "||", "!", "-", "in", "has", "exists",
     ",", "?", ":", "true", "null", "<", "+", "size", "matches", "now", "int", " "]
)  # fmt: skip
json = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["x", "xs", "a"]), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=120, deadline=None)
@given(st.lists(words, max_size=14).map("".join), st.dictionaries(st.sampled_from(["x", "xs"]), json))
def test_no_condition_and_no_arguments_make_it_raise(text: str, arguments: dict[str, Json]) -> None:
    try:
        compile_condition(text)
    except SyntaxMistake:
        return
    assert isinstance(holds(text, arguments), bool | Failure)


templates = st.sampled_from(
    ["args.x == args.xs", "args.x < args.xs", "args.x in args.xs", "args.xs.exists(e, e == args.x)",
     "args.x && args.xs",
     "args.x || has(args.xs)", "!args.x", "args.x + args.xs == args.x", "args.x[args.xs] == 1", "has(args.x.a.x)",
     "size(args.x) > 1", "int(args.x) == 1", "double(args.x) < 1.0", "string(args.x) == 'a'",
     "args.x.contains(args.xs)",
     "timestamp(args.x) < now", "duration(args.x) < duration('1h')", "args.x % args.xs == 0", "args.x / args.xs > 1",
     "args.x.matches('a+')", "-args.x < 0", "timestamp(args.x).getHours(args.xs) == 1", "args.x ? args.xs : false",
     "args.x.all(k, args.x[k] == 1)", "now.getHours('Europe/Berlin') == 1", "args.x * args.xs == 0"]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(templates, st.dictionaries(st.sampled_from(["x", "xs"]), json))
def test_no_arguments_bring_the_engine_down(text: str, arguments: dict[str, Json]) -> None:
    assert isinstance(holds(text, arguments), bool | Failure)


def test_a_window_follows_the_wall_clock_of_its_zone() -> None:
    start, end = hours("08:00-18:00")
    business = Window(zone=zone("Europe/Berlin"), days=days("mon-fri"), start=start, end=end)
    summer = datetime(2026, 7, 1, tzinfo=UTC)
    assert business.open(summer.replace(hour=6).timestamp())
    assert not business.open(summer.replace(hour=5, minute=59).timestamp())
    assert not business.open(datetime(2026, 12, 1, 6, tzinfo=UTC).timestamp())
    assert business.open(datetime(2026, 12, 1, 7, tzinfo=UTC).timestamp())
    assert not business.open(datetime(2026, 11, 28, 12, tzinfo=UTC).timestamp())
    assert holds("windows.business", windows={"business": business}) is True
    assert holds("!windows.business", windows={"business": business}) is False


def test_a_window_past_midnight_belongs_to_the_day_it_starts_on() -> None:
    start, end = hours("22:00-06:00")
    night = Window(zone=UTC, days=days("fri"), start=start, end=end)
    assert night.open(datetime(2026, 11, 27, 23, tzinfo=UTC).timestamp())
    assert night.open(datetime(2026, 11, 28, 5, 59, tzinfo=UTC).timestamp())
    assert not night.open(datetime(2026, 11, 28, 6, tzinfo=UTC).timestamp())
    assert not night.open(datetime(2026, 11, 27, 5, tzinfo=UTC).timestamp())


def test_a_freeze_includes_both_of_its_days() -> None:
    first, last = dates("2026-12-20..2027-01-06")
    freeze = Window(zone=UTC, spans=((first, last),))
    opened = [freeze.open(datetime(y, m, d, 12, tzinfo=UTC).timestamp()) for y, m, d in
              ((2026, 12, 19), (2026, 12, 20), (2027, 1, 6), (2027, 1, 7))]  # fmt: skip
    assert opened == [False, True, True, False]
    assert days("sat-mon") == {5, 6, 0}
