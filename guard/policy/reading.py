"""From the bytes of a file to a `Policy`, collecting every mistake on the way.

A mistake is placed (file, line, column) and says what to write instead. A file with a mistake gives no
policy at all: half a policy would tag less than its owner wrote.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, TypeVar

from guard.model import Demand, Further, Sensitivity
from guard.policy import sections
from guard.policy.conditions import Condition, compile_condition
from guard.policy.document import KINDS, Entry, Match, Policy, Rule
from guard.policy.environments import Origin
from guard.policy.expression import SyntaxMistake
from guard.policy.facts import Declared
from guard.policy.keys import DEFAULT_KEYS, ENTRY_KEYS, FILE_KEYS, RULE_KEYS
from guard.policy.patterns import glob, is_glob
from guard.policy.patterns import mistake as wrong_name
from guard.policy.requires import Require, grants, require
from guard.policy.scope import Known
from guard.policy.tree import Items, Mistake, Node, Place, Scalar, Table, grow, shown
from guard.policy.vocabulary import EFFECTS, SENSITIVITIES, listing, nearest

MAX_WORDS: Final = 200

SERVER: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}", re.ASCII)
_GROUP: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.@-]{0,63}", re.ASCII)
_DIGEST: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)

_T = TypeVar("_T")


class _Reading:
    """One file being read."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.mistakes: list[Mistake] = []
        self.declared, self.known = Declared(), Known()
        self.approvers = "approvers"

    def note(self, place: Place, message: str) -> None:
        """Add a mistake."""
        self.mistakes.append(Mistake(place, message))

    # ------------------------------------------------------------------ values

    def table(self, node: Node, what: str, keys: Iterable[str] | None = None) -> dict[str, tuple[Scalar, Node]]:
        """The members of a mapping, of which only `keys` are known."""
        if not isinstance(node, Table):
            self.note(node.place, f"{what} is a mapping: indented lines of `key: value`, or {{}}")
            return {}
        found = {str(key.value): (key, value) for key, value in node.entries}
        known = None if keys is None else tuple(keys)
        for name, (key, _) in found.items():
            if known is not None and name not in known:
                hint = nearest(name, known) or f"; {what} has {listing(known)}"
                self.note(key.place, f'unknown key "{shown(name)}"{hint}')
        return found if known is None else {name: member for name, member in found.items() if name in known}

    def text(self, node: Node, what: str) -> str:
        """A text of one line, bounded."""
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            self.note(node.place, f'{what} is a text; quote it: "..."')
            return ""
        if len(node.value) > MAX_WORDS or "\n" in node.value:
            self.note(node.place, f"{what} is one line of at most {MAX_WORDS} characters")
            return ""
        return node.value

    def name(self, node: Node, what: str, form: re.Pattern[str]) -> str:
        """A text of a given form."""
        text = self.text(node, what)
        if isinstance(node, Scalar) and node.value == text and not form.fullmatch(text):
            self.note(node.place, f"{what} is made of letters, digits, dots, dashes and underscores, at most 64")
        return text

    def flag(self, node: Node, what: str) -> bool:
        """`true` or `false`."""
        if isinstance(node, Scalar) and isinstance(node.value, bool):
            return node.value
        self.note(node.place, f"{what} is true or false")
        return False

    def word(self, node: Node, what: str, choices: Mapping[str, _T]) -> _T | None:
        """One word of a closed vocabulary."""
        value = node.value if isinstance(node, Scalar) else None
        if isinstance(value, str) and value in choices:
            return choices[value]
        said = f'"{shown(str(value))}" is no {what}' if value is not None else f"{what} is one word"
        self.note(node.place, said + (nearest(str(value), choices) or f"; write one of {listing(choices)}"))
        return None

    def words(self, node: Node, what: str, choices: Mapping[str, _T]) -> list[_T]:
        """One word, or a list of words."""
        nodes = node.nodes if isinstance(node, Items) else (node,)
        found = [self.word(one, what, choices) for one in nodes]
        return [one for one in found if one is not None]

    def sensitivity(self, members: Mapping[str, tuple[Scalar, Node]]) -> Sensitivity | None:
        """The `sensitivity` of a mapping, if given."""
        return self.word(members["sensitivity"][1], "sensitivity", SENSITIVITIES) if "sensitivity" in members else None

    def effects(self, members: Mapping[str, tuple[Scalar, Node]]) -> frozenset[str]:
        """The `effects` of a mapping."""
        if "effects" not in members:
            return frozenset()
        return frozenset(self.words(members["effects"][1], "effect", {word: word for word in EFFECTS}))

    def require(self, members: Mapping[str, tuple[Scalar, Node]]) -> Require:
        """The conjunction that `require` asks for."""
        return require(self, members["require"][1]) if "require" in members else Require()

    def names(self, members: Mapping[str, tuple[Scalar, Node]], key: str) -> frozenset[str]:
        """One text, or a list of texts."""
        if key not in members:
            return frozenset()
        node = members[key][1]
        nodes = node.nodes if isinstance(node, Items) else (node,)
        return frozenset(self.text(one, key) for one in nodes) - {""}

    # ------------------------------------------------------------------ parts

    def condition(self, node: Node) -> Condition | None:
        """The `when` of a rule."""
        if not isinstance(node, Scalar) or not isinstance(node.value, str):
            self.note(node.place, "when is a condition in quotes; leave it out for a rule that always applies")
            return None
        try:
            return compile_condition(node.value, self.known)
        except SyntaxMistake as error:
            self.note(node.place, f"in the condition, at character {error.at + 1}: {error}")
            return None

    def rule(self, name: str, node: Node) -> Rule:
        """One rule."""
        members = self.table(node, "a rule", RULE_KEYS)
        if isinstance(node, Table) and not members.keys() & {"sensitivity", "require", "effects"}:
            self.note(node.place, "the rule changes nothing; give it a sensitivity, require or effects")
        wanted = self.require(members)
        return Rule(
            name=name,
            place=node.place,
            when=self.condition(members["when"][1]) if "when" in members else None,
            environments=self.environments(members),
            sensitivity=self.sensitivity(members),
            demands=wanted.demands,
            quorums=wanted.quorums,
            effects=self.effects(members),
            reason=self.text(members["reason"][1], "reason") if "reason" in members else "",
        )

    def environments(self, members: Mapping[str, tuple[Scalar, Node]]) -> frozenset[str]:
        """The `environments` of a rule, each of them declared."""
        if "environments" not in members:
            return frozenset()
        node, known = members["environments"][1], self.known.environments
        if not known:
            self.note(node.place, "the file declares no environment; see the key `environment`")
            return frozenset()
        return frozenset(self.words(node, "environment", {name: name for name in sorted(known)}))

    def rules(self, name: str, node: Node) -> tuple[Rule, ...]:
        """The ordered rules of an entry."""
        if not isinstance(node, Items):
            self.note(node.place, 'rules is a list: - {when: "...", require: consent, reason: ...}')
            return ()
        return tuple(self.rule(f"{name}.rules[{index}]", one) for index, one in enumerate(node.nodes))

    def entry(self, section: str, key: Scalar, node: Node, default: Entry) -> Entry:
        """One tag."""
        pattern, kind = str(key.value), KINDS[section]
        if wrong := wrong_name(pattern, kind):
            self.note(key.place, wrong)
        name = f"{self.file}#{section}.{pattern}"
        members = self.table(node, "an entry", ENTRY_KEYS)
        stated, wanted = self.sensitivity(members), self.require(members)
        return Entry(
            pattern=pattern,
            name=name,
            place=key.place,
            sensitivity=default.sensitivity if stated is None else stated,
            glob=glob(pattern, kind) if is_glob(pattern, kind) and not wrong else None,
            effects=self.effects(members),
            demands=wanted.demands,
            quorums=wanted.quorums,
            approvers=self.group(members),
            further=grants(self, members["grants"][1]) if "grants" in members else Further(),
            log=self.names(members, "log"),
            reason=self.text(members["reason"][1], "reason") if "reason" in members else "",
            review=self.flag(members["review"][1], "review") if "review" in members else False,
            definition=self.digest(kind, pattern, members),
            rules=self.rules(name, members["rules"][1]) if "rules" in members else (),
            callers=sections.callers(self, members["callers"][1]) if "callers" in members else None,
            origin=self.origin(members),
            runs=sections.runs(self, members["runs"][1]) if "runs" in members else None,
            limits=sections.limits(self, members["limits"][1], name) if "limits" in members else (),
        )

    def digest(self, kind: str, pattern: str, members: Mapping[str, tuple[Scalar, Node]]) -> str:
        """The pinned definition of one tool, or ""."""
        if "definition" not in members:
            return ""
        key, node = members["definition"]
        if kind != "tool" or is_glob(pattern, kind):
            self.note(key.place, "one tool has a definition: pin each tool under its own name")
        text = self.text(node, "definition")
        if text and not _DIGEST.fullmatch(text):
            self.note(node.place, "a definition is 64 hexadecimal digits; `guard policy scaffold` prints it")
        return text

    def origin(self, members: Mapping[str, tuple[Scalar, Node]]) -> Origin | None:
        """Where an entry's environment is read from."""
        if "environment" not in members:
            return None
        if not self.known.environments:
            self.note(members["environment"][1].place, "the file declares no environment; see the key `environment`")
        return sections.read_origin(self, members["environment"][1])

    def group(self, members: Mapping[str, tuple[Scalar, Node]]) -> str:
        """The approver group of a mapping, else the file's."""
        return self.name(members["approvers"][1], "approvers", _GROUP) if "approvers" in members else self.approvers

    def default(self, node: Node | None, place: Place) -> Entry:
        """What holds for names that no entry matches."""
        members = self.table(node, "default", DEFAULT_KEYS) if node is not None else {}
        stated, wanted = self.sensitivity(members), self.require(members)
        return Entry(
            pattern="",
            name=f"{self.file}#default",
            place=node.place if node is not None else place,
            sensitivity=Sensitivity.SENSITIVE if stated is None else stated,
            effects=self.effects(members),
            demands=wanted.demands | {Demand.STEP_UP},
            quorums=wanted.quorums,
            approvers=self.approvers,
        )

    def policy(self, root: Node) -> Policy:
        """The whole file."""
        members = self.table(root, "a policy", FILE_KEYS)
        if "server" not in members:
            self.note(root.place, "the file does not say which server it is about; write server: NAME")
        server = self.name(members["server"][1], "server", SERVER) if "server" in members else ""
        owner = self.text(members["owner"][1], "owner") if "owner" in members else ""
        self.approvers = self.group(members)
        match = (
            self.word(members["match"][1], "way to match", {m.value: m for m in Match}) if "match" in members else None
        )
        self.declare(members)
        default = self.default(members["default"][1] if "default" in members else None, root.place)
        entries = {
            kind: tuple(
                self.entry(section, key, value, default)
                for key, value in self.table(members[section][1], section).values()
            )
            for section, kind in KINDS.items()
            if section in members
        }
        return Policy(
            file=self.file,
            place=members["server"][1].place if "server" in members else root.place,
            server=server,
            owner=owner,
            default=default,
            entries=MappingProxyType(entries),
            match=match or Match.FIRST,
            match_stated="match" in members,
            declared=self.declared,
            authors=self.names(members, "authors"),
            pins=MappingProxyType({one.pattern: one.definition for one in entries.get("tool", ()) if one.definition}),
            callers=sections.callers(self, members["callers"][1]) if "callers" in members else None,
            limits=sections.limits(self, members["limits"][1], self.file) if "limits" in members else (),
        )

    def declare(self, members: Mapping[str, tuple[Scalar, Node]]) -> None:
        """What conditions may ask for by name."""
        windows = {
            sections.declared_name(self, key, "window"): sections.window(self, value)
            for key, value in (self.table(members["windows"][1], "windows") if "windows" in members else {}).values()
        }
        networks = {
            sections.declared_name(self, key, "network"): sections.network(self, value)
            for key, value in (self.table(members["networks"][1], "networks") if "networks" in members else {}).values()
        }
        environments = sections.environments(self, members["environment"][1]) if "environment" in members else None
        self.declared = Declared(
            windows=MappingProxyType(windows), networks=MappingProxyType(networks), environments=environments
        )
        self.known = Known(
            windows=frozenset(windows),
            networks=frozenset(networks),
            environments=frozenset(environments.plain) if environments else frozenset(),
        )


def read(raw: bytes, file: str) -> tuple[Policy | None, tuple[Mistake, ...]]:
    """The policy in the bytes of one file, or None with every mistake; `file` is the name shown.

    Never raises for any bytes; bounded as `guard.policy.tree.grow`.
    """
    root, mistakes = grow(raw, file)
    if root is None:
        return None, mistakes
    reading = _Reading(file)
    policy = reading.policy(root)
    found = tuple(sorted({*mistakes, *reading.mistakes}))
    return (None if found else policy), found
