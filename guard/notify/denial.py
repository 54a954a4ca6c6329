"""Denying from a chat: a signed order of the program behind a channel, on behalf of a user it names.

It can only refuse. The link in a notice carries no right of its own, so that nobody denies by opening or forwarding
it: the order is signed with the channel's key, the user is on the channel's list, and the person behind that user is
one who is asked about this call. Denying too much is a denial of service; that is why it is off until somebody is
listed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Final

import anyio.to_thread

from guard.channels import Channel, Webhook
from guard.errors import NotFoundError, ProofWrongApproverError, ProofWrongCallError, WireError
from guard.model import Challenge
from guard.notify.signing import check, key_of
from guard.ports import Clock, Store
from guard.stepup.ceremony import Ceremony
from guard.stepup.escalation import asked

TYPE: Final = "challenge.deny"
_MEMBERS: Final = frozenset({"type", "challenge", "short_digest", "user", "because"})


class Denials:
    """Takes orders to deny from the channels that may give them."""

    def __init__(
        self,
        channels: Mapping[str, Channel],
        store: Store,
        ceremony: Ceremony,
        clock: Clock,
        *,
        escalate: Mapping[str, str],
    ) -> None:
        """Read the keys of the channels that list somebody.

        Raises:
            ConfigError: a key is not where it should be.
        """
        able = {name: one for name, one in channels.items() if isinstance(one, Webhook) and one.deny_by}
        self._keys = {name: key_of(one.secret.read()) for name, one in able.items()}
        self._users: dict[str, Mapping[str, str]] = {name: one.deny_by for name, one in able.items()}
        self._store, self._ceremony, self._clock, self._escalate = store, ceremony, clock, dict(escalate)

    async def deny(self, channel: str, headers: Mapping[str, str], body: bytes) -> Challenge:
        """Carry out one order: `{type, challenge, short_digest, user, because}`, all of them texts.

        Raises:
            NotFoundError: no such channel may deny, or there is no such challenge.
            IdentityError: the order is not signed by the channel, or not now.
            WireError: it is not of this form.
            ProofWrongCallError, ProofWrongApproverError: it names another call, or a person who is not asked.
            ChallengeClosedError: the challenge ended already.
        """
        if channel not in self._keys:
            raise NotFoundError("no channel of this name may deny")
        check(self._keys[channel], headers, body, self._clock.now())
        order = _order(body)
        found = await anyio.to_thread.run_sync(self._store.challenges.get, order["challenge"])
        if found is None:
            raise NotFoundError("there is no such challenge")
        if order["short_digest"] != found.short_digest:
            raise ProofWrongCallError("the digest is not that of this challenge")
        person = await anyio.to_thread.run_sync(self._person, channel, order["user"], found)
        because = f"{order['because']} (by {channel})" if order["because"] else f"denied by {channel}"
        return await self._ceremony.refuse(found.id, by=person, because=because)

    def _person(self, channel: str, user: str, challenge: Challenge) -> str:
        name = self._users[channel].get(user, "")
        person = self._store.approvers.get(name) if name else None
        groups = asked(challenge, self._escalate, self._clock.now())
        if person is None or person.removed or person.groups.isdisjoint(groups):
            raise ProofWrongApproverError("this user is not one who is asked about this call")
        return person.name


def _order(body: bytes) -> Mapping[str, str]:
    try:
        order: object = json.loads(body, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise WireError("the body is not one JSON object", detail=str(error)) from error
    if (
        not isinstance(order, dict)
        or order.keys() != _MEMBERS
        or not all(isinstance(one, str) for one in order.values())
    ):
        raise WireError(f"the body is a JSON object of the texts {', '.join(sorted(_MEMBERS))}")
    if order["type"] != TYPE:
        raise WireError(f"the type of an order is {TYPE}")
    return order


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name occurs twice")
    return made
