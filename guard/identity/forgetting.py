"""Takes what keys taught out of what all agents of a tool server are held against.

A new key has a profile of its own, and starts with none. But what its agent's older key was taught, by whoever had it,
would still be normal for a newcomer, because the profile of all agents of the server holds it as well.
"""

from __future__ import annotations

from collections.abc import Collection

from guard.drift.peers import servers, summed
from guard.drift.profile import Profile
from guard.drift.profiles import peers_of
from guard.drift.snapshot import dump, load
from guard.ports import Store


def forget(store: Store, keys: Collection[str]) -> None:
    """Sum up the profiles of the servers these keys were used at without them, now and later.

    `keys` are thumbprints. The scores that set a newcomer's threshold stay: they are numbers only, and what is above
    the threshold counts for little. A running guard takes over what is stored with what it learns next.

    Raises:
        StoreUnavailableError: the store cannot be read or written.
    """
    used = set[str]()
    for key in keys:
        if (one := _profile(store, key)) is not None:
            used |= servers(one)
            one.forgotten = True  # also when the sum is made anew for another key's sake
            store.baselines.put(key, dump(one))
    kept = [
        one
        for agent in store.agents.all()
        if used and not agent.revoked
        for credential in store.agents.credentials(agent.name)
        if (one := _profile(store, credential.thumbprint)) is not None and not one.forgotten
    ]
    for server in sorted(used):
        if (known := _profile(store, peers_of(server))) is not None:
            whole = summed(server, kept)
            whole.scores = known.scores
            store.baselines.put(peers_of(server), dump(whole))


def _profile(store: Store, key: str) -> Profile | None:
    """A stored profile; None where there is none that can be read."""
    snapshot = store.baselines.get(key)
    try:
        return None if snapshot is None else load(snapshot)
    except ValueError:
        return None
