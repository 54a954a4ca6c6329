"""Showing a person what they decide about, with every digest computed here from what is shown."""

from __future__ import annotations

from guard.app import Desk
from guard.cli import options
from guard.errors import NotFoundError, ProofWrongCallError
from guard.model import Challenge
from guard.stepup.view import render
from guard.wire.canonical import call_digest


def challenge_of(services: Desk, identifier: str) -> Challenge:
    """One challenge.

    Raises:
        NotFoundError: there is none of this id.
    """
    found = services.store.challenges.get(identifier)
    if found is None:
        raise NotFoundError(f"there is no challenge {identifier}")
    return found


def shown(services: Desk, found: Challenge, name: str) -> str:
    """Print what a person decides about; the digest of the view, computed here.

    Raises:
        NotFoundError: there is no such person; no code is spent.
        ProofWrongCallError: the digest of the challenge is not that of the call shown.
    """
    person = services.store.approvers.get(name)
    if person is None or person.removed:
        raise NotFoundError(f"there is no approver {name}; guard approver add {name}")
    view = render(found)
    options.note(view.text)
    if found.state.open:
        check(found)
    return view.digest


def check(found: Challenge) -> None:
    """Recompute the digest of the call from what is shown.

    Raises:
        ProofWrongCallError: it is not the digest that would be approved.
    """
    if not found.arguments:
        return
    computed = call_digest(
        principal=found.principal.subject,
        server=found.server,
        kind=found.kind,
        name=found.name,
        definition=found.definition,
        canonical_arguments=found.arguments,
    )
    if computed != found.digest:
        raise ProofWrongCallError("the digest of the challenge is not that of the call it shows; do not approve it")
