"""Whom a challenge asks at which moment: its groups, and after half of its time the next one as well. Pure.

What must be proven stays the same; only who may prove it widens, and never for a machine. A place that the policy
gives to a named group stays that group's.
"""

from __future__ import annotations

from collections.abc import Mapping

from guard.model import Challenge


def half_time(challenge: Challenge) -> float:
    """The moment (Unix seconds) at which half of the challenge's time is gone."""
    return challenge.opened + (challenge.expires - challenge.opened) / 2


def asked(challenge: Challenge, escalate: Mapping[str, str], at: float) -> tuple[str, ...]:
    """The groups whose members may decide at `at`: the requirement's, its approvers first, then the next one.

    `escalate` names the next group by that of the approvers; one step, so nobody is asked who was not named.
    """
    requirement = challenge.requirement
    first = requirement.approvers
    named = (first, *sorted(requirement.groups - {first}))
    following = escalate.get(first, first)
    return named if following in named or not at >= half_time(challenge) else (*named, following)
