"""Check a folder of policies: every mistake, and warnings about what is allowed but hardly meant."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from guard.config import IRREVERSIBLE, Config
from guard.model import Demand, Sensitivity
from guard.policy.directory import survey, understand
from guard.policy.document import Entry, Match, Policy, Rule
from guard.policy.tree import Mistake, Place
from guard.policy.vocabulary import nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a check found, each in order of file, line and column. `read` counts the files without a mistake."""

    mistakes: tuple[Mistake, ...]
    warnings: tuple[Mistake, ...]
    read: int


def check(folder: Path, config: Config | None = None, approvers: Mapping[str, int] | None = None) -> Report:
    """Check the policies in `folder`.

    Args:
        folder: holds NAME.yaml, one file a server.
        config: with it, files are compared with the configured servers.
        approvers: how many people each group has; with it, requirements nobody can meet are found.
    """
    found = survey(folder)
    policies, mistakes = understand(found, folder)
    irreversible = config.irreversible if config is not None else frozenset(IRREVERSIBLE)
    warnings = list(found.leftovers)
    for policy in policies:
        for warning in _about(policy, config, approvers, irreversible):
            place = warning.place
            warnings.append(Mistake(Place(str(folder / place.file), place.line, place.column), warning.message))
    if config is not None and not mistakes:
        warnings.extend(_undescribed(folder, policies, config))
    return Report(mistakes=tuple(sorted(set(mistakes))), warnings=tuple(sorted(set(warnings))), read=len(policies))


def _undescribed(folder: Path, policies: tuple[Policy, ...], config: Config) -> Iterator[Mistake]:
    """Configured servers without a policy."""
    for server in sorted(config.servers.keys() - {policy.server for policy in policies}):
        said = f'no policy describes the server "{server}", so everything on it needs a step-up'
        yield Mistake(Place(str(folder / f"{server}.yaml"), 1, 1), said)


def _about(
    policy: Policy, config: Config | None, approvers: Mapping[str, int] | None, irreversible: frozenset[str]
) -> Iterator[Mistake]:
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
        if approvers is not None:
            yield from _unmeetable(entry, approvers, irreversible)


def _unreachable(policy: Policy, entry: Entry) -> Iterator[Mistake]:
    """Rules that can never say anything, because an earlier one without a condition always speaks first."""
    settled = ""
    for rule in entry.rules:
        if settled and rule.sensitivity is not None and policy.match is Match.FIRST:
            rest = "" if rule.demands or rule.effects else ", so this rule never counts"
            said = f"the sensitivity is always settled by {settled} before{rest}; put the general rule last"
            yield Mistake(rule.place, said)
        if not settled and rule.sensitivity is not None and _always(rule):
            settled = rule.name.rpartition(".")[2]


def _always(rule: Rule) -> bool:
    return not rule.environments and (rule.when is None or rule.when.text.strip() == "true")


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


def _unmeetable(entry: Entry, approvers: Mapping[str, int], irreversible: frozenset[str]) -> Iterator[Mistake]:
    """Requirements for which the approver group is too small."""
    sides = [(entry.place, entry.sensitivity, entry.effects, entry.demands)]
    sides += [
        (rule.place, entry.sensitivity if rule.sensitivity is None else rule.sensitivity,
         entry.effects | rule.effects, rule.demands)
        for rule in entry.rules
    ]  # fmt: skip
    have = approvers.get(entry.approvers, 0)
    for place, sensitivity, effects, demands in sides:
        consent = Demand.CONSENT in demands or (sensitivity is Sensitivity.CRITICAL and bool(effects & irreversible))
        need = 2 if Demand.TWO_PEOPLE in demands else int(consent)
        if have < need:
            people = "two people" if need > 1 else "somebody"
            said = f'this needs {people} of group "{entry.approvers}", which has {have}; see `guard approver add`'
            yield Mistake(place, said)
