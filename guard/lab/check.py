"""Check a folder of policies: every mistake, and warnings about what is allowed but hardly meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from guard.config import IRREVERSIBLE, Config
from guard.lab.impossible import always, never
from guard.model import Demand, ProofClass, Sensitivity
from guard.policy.directory import survey, understand
from guard.policy.document import Entry, Match, Policy, Rule
from guard.policy.tree import Mistake, Place
from guard.policy.vocabulary import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Able:
    """Who can prove something now: how many people of each group, and how many enrolled keys of workloads."""

    people: Mapping[str, int]
    keys: int = -1
    """-1: not looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a check found, each in order of file, line and column. `read` counts the files without a mistake.

    `notes` are worth a look, and no reason to fail.
    """

    mistakes: tuple[Mistake, ...]
    warnings: tuple[Mistake, ...]
    notes: tuple[Mistake, ...] = ()
    read: int


def check(folder: Path, config: Config | None = None, able: Able | None = None) -> Report:
    """Check the policies in `folder`.

    Args:
        folder: holds NAME.yaml, one file a server.
        config: with it, files are compared with the configured servers.
        able: who can prove something now; with it, requirements nobody can meet are found.
    """
    found = survey(folder)
    policies, mistakes = understand(found, folder)
    irreversible = config.irreversible if config is not None else frozenset(IRREVERSIBLE)
    warnings = list(found.leftovers)
    for policy in policies:
        warnings += [below(folder, warning) for warning in _about(policy, config, able, irreversible)]
    if config is not None and not mistakes:
        warnings.extend(_undescribed(folder, policies, config))
    notes = [below(folder, note) for policy in policies for note in _weaker(policy)]
    return Report(
        mistakes=tuple(sorted(set(mistakes))),
        warnings=tuple(sorted(set(warnings))),
        notes=tuple(sorted(set(notes))),
        read=len(policies),
    )


def below(folder: Path, mistake: Mistake) -> Mistake:
    """The same with its file's path below the folder."""
    place = mistake.place
    return Mistake(Place(str(folder / place.file), place.line, place.column), mistake.message)


def _undescribed(folder: Path, policies: tuple[Policy, ...], config: Config) -> Iterator[Mistake]:
    """Configured servers without a policy."""
    for server in sorted(config.servers.keys() - {policy.server for policy in policies}):
        said = f'no policy describes the server "{server}", so everything on it needs a step-up'
        yield Mistake(Place(str(folder / f"{server}.yaml"), 1, 1), said)


def _about(policy: Policy, config: Config | None, able: Able | None, irreversible: frozenset[str]) -> Iterator[Mistake]:
    """Every warning about one file."""
    if policy.file != f"{policy.server}.yaml":
        yield Mistake(policy.place, f"call the file {policy.server}.yaml, so that people find it")
    if config is not None and policy.server not in config.servers:
        hint = nearest(policy.server, config.servers)
        yield Mistake(policy.place, f'no server "{policy.server}" is configured{hint}')
    for entry in (policy.default, *(entry for entries in policy.entries.values() for entry in entries)):
        if entry.review:
            yield Mistake(entry.place, "nobody has looked at this tag yet; settle it and remove review: true")
        yield from _unreachable(policy, entry)
        yield from _unstated(policy, entry)
        if config is not None:
            yield from _unlocated(entry, config)
        if able is not None:
            yield from _unmeetable(entry, able, irreversible)


def _unreachable(policy: Policy, entry: Entry) -> Iterator[Mistake]:
    """Rules that can never say anything, or always do, or whose sensitivity an earlier one always settles."""
    settled = ""
    seen: dict[tuple[str, frozenset[str]], str] = {}
    for rule in entry.rules:
        short = rule.name.rpartition(".")[2]
        text = rule.when.text.strip() if rule.when is not None else "true"
        if why := never(text):
            yield Mistake(rule.place, f"the condition can never be true: {why}")
        if rule.when is not None and always(text):
            yield Mistake(rule.place, "the condition is always true; leave it out, or correct it")
        same = (text, rule.environments)
        before = settled or seen.get(same, "")
        if before and rule.sensitivity is not None and policy.match is Match.FIRST:
            rest = "" if rule.demands or rule.quorums or rule.effects else ", so this rule never counts"
            said = f"the sensitivity is always settled by {before} before{rest}; put the general rule last"
            yield Mistake(rule.place, said)
        if rule.sensitivity is not None:
            seen.setdefault(same, short)
            settled = settled or (short if _always(rule) else "")


def _always(rule: Rule) -> bool:
    return not rule.environments and (rule.when is None or bool(always(rule.when.text)))


def _unstated(policy: Policy, entry: Entry) -> Iterator[Mistake]:
    """Several rules may say the sensitivity, and the file does not say which of them counts."""
    speaking = [rule for rule in entry.rules if rule.sensitivity is not None]
    shadowed = any(_always(rule) for rule in speaking[:-1])  # said already, and the reason why the others do not count
    if not policy.match_stated and len(speaking) > 1 and not shadowed:
        said = (
            "several rules may say the sensitivity, and the first that holds counts; write match: first, or strictest"
        )
        yield Mistake(speaking[1].place, said)


def _unlocated(entry: Entry, config: Config) -> Iterator[Mistake]:
    """Conditions about a country or system for which guard.toml names no database."""
    known = {"country": config.geo and config.geo.country, "asn": config.geo and config.geo.asn}
    for rule in entry.rules:
        asked = {slot.path[0] for slot in rule.when.names.slots if slot.variable == "source"} if rule.when else set()
        for name in sorted(asked & known.keys()):
            if known[name] is None:
                said = f"source.{name} is never known: [geo] in guard.toml names no database for it"
                yield Mistake(rule.place, said)


def _weaker(policy: Policy) -> Iterator[Mistake]:
    """Tags below the file's default that do more than read, or do not say what they do, and give no reason."""
    default = policy.default.sensitivity
    for entry in (entry for entries in policy.entries.values() for entry in entries):
        if entry.sensitivity < default and not entry.reason and entry.effects != {"read"}:
            said = f"{entry.sensitivity.label} is less than the default, {default.label}, and no reason is given"
            yield Mistake(entry.place, said)


def _unmeetable(entry: Entry, able: Able, irreversible: frozenset[str]) -> Iterator[Mistake]:
    """Requirements that nobody can meet now: too few people of a group, or no key to sign with."""
    sides = [(entry.place, entry.sensitivity, entry.effects, entry.demands, entry.quorums)]
    sides += [
        (
            rule.place,
            entry.sensitivity if rule.sensitivity is None else rule.sensitivity,
            entry.effects | rule.effects,
            rule.demands,
            rule.quorums,
        )
        for rule in entry.rules
    ]
    for place, sensitivity, effects, demands, quorums in sides:
        consent = Demand.CONSENT in demands or (sensitivity is Sensitivity.CRITICAL and bool(effects & irreversible))
        needs = {entry.approvers: 2 if Demand.TWO_PEOPLE in demands else int(consent)}
        for quorum in quorums:
            if quorum.proof_class is ProofClass.CONSENT:
                group = quorum.group or entry.approvers
                needs[group] = max(needs.get(group, 0), quorum.people)
        for group, need in needs.items():
            have = able.people.get(group, 0)
            if have < need:
                people = "two people" if need == 2 else "somebody" if need == 1 else f"{need} people"  # noqa: PLR2004
                said = f'this needs {people} of group "{group}", which has {have}; see `guard approver add`'
                yield Mistake(place, said)
        signed = Demand.POSSESSION in demands or any(one.proof_class is ProofClass.POSSESSION for one in quorums)
        if signed and able.keys == 0:
            yield Mistake(place, "this needs a workload's signature, and no key is enrolled; see `guard factor enroll`")
