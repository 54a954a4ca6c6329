"""The long form of `require`: who must consent, with what kind of proof, how fresh, at which attestation."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar

from guard.model import Demand, Further, ProofClass, Quorum
from guard.policy.keys import CONSENT_KEYS, GRANTS_KEYS, POSSESSION_KEYS, REQUIRE_KEYS
from guard.policy.tree import Items, Node, Place, Scalar, Table
from guard.policy.vocabulary import REQUIREMENTS
from guard.quorum import KINDS

MAX_PEOPLE: Final = 9
MAX_ATTESTATION: Final = 2
MAX_USES: Final = 100
MAX_MINUTES: Final = 1440
_SIZE: Final = re.compile(r"(0|[1-9][0-9]{0,5})([KMG])B", re.ASCII)
_SIZES: Final = {"K": 10**3, "M": 10**6, "G": 10**9}
_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"([1-9][0-9]{0,5})([smhd])", re.ASCII)
_GROUP: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.@-]{0,63}", re.ASCII)
_T = TypeVar("_T")


class Reader(Protocol):
    """What `guard.policy.reading` offers: values read from nodes, and a place for mistakes."""

    def note(self, place: Place, message: str) -> None:
        """Add a mistake."""

    def table(self, node: Node, what: str, keys: Iterable[str] | None = None) -> dict[str, tuple[Scalar, Node]]:
        """The members of a mapping."""

    def text(self, node: Node, what: str) -> str:
        """A text of one line."""

    def name(self, node: Node, what: str, form: re.Pattern[str]) -> str:
        """A text of a given form."""

    def words(self, node: Node, what: str, choices: Mapping[str, _T]) -> list[_T]:
        """One word, or a list of words."""


@dataclass(frozen=True, slots=True)
class Require:
    """What one `require` adds to the conjunction."""

    demands: frozenset[Demand] = frozenset()
    quorums: frozenset[Quorum] = frozenset()


def require(reader: Reader, node: Node) -> Require:
    """Read a word, a list of words, or a mapping with `consent` and `possession`."""
    if not isinstance(node, Table):
        return Require(frozenset[Demand]().union(*reader.words(node, "requirement", REQUIREMENTS)))
    members = reader.table(node, "require", REQUIRE_KEYS)
    if not members:
        reader.note(node.place, "the requirement is empty; give it consent, possession or both")
    demands, quorums = set[Demand](), set[Quorum]()
    if "possession" in members:
        demands.add(Demand.POSSESSION)
        quorums.add(_quorum(reader, members["possession"][1], ProofClass.POSSESSION, POSSESSION_KEYS))
    if "consent" in members:
        asked = members["consent"][1]
        for one in asked.nodes if isinstance(asked, Items) else (asked,):
            quorum = _quorum(reader, one, ProofClass.CONSENT, CONSENT_KEYS)
            demands.add(Demand.TWO_PEOPLE if quorum.people > 1 else Demand.CONSENT)
            quorums.add(quorum)
    plain = {Quorum(proof_class=proof_class) for proof_class in ProofClass}  # says no more than the word does
    return Require(frozenset(demands), frozenset(quorums - plain))


def grants(reader: Reader, node: Node) -> Further:
    """Read `grants`: what an approver may allow beyond the call they look at."""
    members = {key: member[1] for key, member in reader.table(node, "grants", GRANTS_KEYS).items()}
    if members.keys() != GRANTS_KEYS.keys():
        reader.note(node.place, "grants says how often and how long: {uses: 10, minutes: 60}")
        return Further()
    return Further(
        number(reader, members["uses"], "uses", 1, MAX_USES),
        60.0 * number(reader, members["minutes"], "minutes", 1, MAX_MINUTES),
    )


def _quorum(reader: Reader, node: Node, proof_class: ProofClass, keys: Iterable[str]) -> Quorum:
    members = {key: member[1] for key, member in reader.table(node, proof_class.value, keys).items()}
    kinds = {kind: kind for kind in KINDS[proof_class]}
    return Quorum(
        proof_class=proof_class,
        people=number(reader, members["people"], "people", 1, MAX_PEOPLE) if "people" in members else 1,
        group=reader.name(members["group"], "group", _GROUP) if "group" in members else "",
        kinds=frozenset(reader.words(members["kinds"], "kind of proof", kinds)) if "kinds" in members else frozenset(),
        attestation=(
            number(reader, members["attestation"], "attestation", 0, MAX_ATTESTATION) if "attestation" in members else 0
        ),
        max_age=seconds(reader, members["max_age"], "max_age") if "max_age" in members else 0.0,
    )


def number(reader: Reader, node: Node, what: str, least: int, most: int) -> int:
    """A whole number within bounds."""
    value = node.value if isinstance(node, Scalar) else None
    if type(value) is int and least <= value <= most:
        return value
    reader.note(node.place, f"{what} is a whole number from {least} to {most}")
    return most


def size(reader: Reader, node: Node, what: str) -> int:
    """A number of bytes such as 500KB, 10MB or 1GB (a thousand, a million, a thousand million)."""
    found = _SIZE.fullmatch(reader.text(node, what))
    if found is None:
        reader.note(node.place, f"{what} is a number, or a number and a unit: 500KB, 10MB or 1GB")
        return 0
    return int(found[1]) * _SIZES[found[2]]


def seconds(reader: Reader, node: Node, what: str) -> float:
    """A length of time such as 90s, 10m, 2h or 1d."""
    found = _DURATION.fullmatch(reader.text(node, what))
    if found is None:
        reader.note(node.place, f"{what} is a number and a unit: 90s, 10m, 2h or 1d")
        return 1.0
    return float(int(found[1]) * _UNITS[found[2]])
