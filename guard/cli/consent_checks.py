"""The checks of `guard doctor` about people: can they be told, is a group empty, does an emergency wait for review."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from guard.app import Desk
from guard.audit.export import Reader
from guard.channels import Channel, Webhook
from guard.cli import options
from guard.cli.checks import Check
from guard.errors import ConfigError
from guard.notify.build import notifier


def consent_checks(services: Desk) -> Iterator[Check]:
    """Every check, each from its own function."""
    for check in _CHECKS:
        yield from check(services)


def _channels(services: Desk) -> Iterator[Check]:
    """Whether people are told at all, and every channel can be made."""
    if not services.config.notify:
        yield Check("warning", "nobody is told when a call waits", "add a [notify.NAME] table; docs/how-to/notify.md")
    for name, channel in services.config.notify.items():
        try:
            notifier(channel, services.clock)
        except ConfigError as error:
            yield Check("problem", f"channel {name}: {error.public}", "guard serve does not start until this is right")


def _unreachable(services: Desk) -> Iterator[Check]:
    """Channels whose last notice did not arrive, as the ledger has it."""
    last: dict[str, tuple[str, str]] = {}
    wanted = frozenset({b'"event":"challenge.notified"', b'"event":"notice.failed"'})
    for entry in Reader(services.config.state).read(holding=wanted):
        last[entry.text("channel")] = entry.event, entry.time
    for name in services.config.notify:
        event, time = last.get(name, ("", ""))
        if event == "notice.failed":
            yield Check("warning", f"channel {name} took no notice at {time}", f"guard notify test {name}")


def _groups(services: Desk) -> Iterator[Check]:
    """Groups that a setting names and nobody is in, and people who may deny by a channel and are not there."""
    people = [person for person in services.store.approvers.all() if not person.removed]
    filled = {group for person in people for group in person.groups}
    for group in sorted(set(services.config.approval.escalate.values()) - filled):
        yield Check(
            "warning",
            f"escalation leads to the group {group}, which is empty",
            f"guard approver add NAME --group {group}",
        )
    names = {person.name for person in people}
    for channel, one in services.config.notify.items():
        for name in sorted(_deniers(one) - names):
            yield Check(
                "warning",
                f"channel {channel} lets {name} deny, who is no approver",
                f"guard approver add {name}, or take them off",
            )


def _deniers(channel: Channel) -> set[str]:
    return set(channel.deny_by.values()) if isinstance(channel, Webhook) else set()


def _emergencies(services: Desk) -> Iterator[Check]:
    """Broken glass that nobody looked at."""
    for one in services.store.emergencies.since(services.clock.now()):
        if not one.reviewed:
            yield Check(
                "problem",
                f"{one.subject} broke glass at {options.moment(one.at)} ({one.ticket}) and nobody has reviewed it",
                f"guard challenge review {one.challenge} --as NAME --code CODE --verdict TEXT",
            )


_CHECKS: Final[tuple[Callable[[Desk], Iterator[Check]], ...]] = (_channels, _unreachable, _groups, _emergencies)
