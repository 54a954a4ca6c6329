"""`guard factor`: what people and workloads prove things with."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from pathlib import Path

import click
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from guard import quorum
from guard.app import Desk, desk
from guard.cli import options
from guard.errors import ConfigError, GuardError, NotFoundError
from guard.factors import register, signature
from guard.ports import Factor
from guard.reasons import Code
from guard.signer.settings import SignerSettings, require_pkcs11


@click.group()
def factor() -> None:
    """Enrol, lock and revoke one-time codes and signing keys."""


@factor.group()
def enroll() -> None:
    """Enrol a factor for a person (totp), a workload (signature) or a release system (intent)."""


@enroll.command()
@click.argument("name")
@options.config
@options.as_json
def totp(name: str, file: Path, as_json: bool) -> None:
    """Make a code generator for the person NAME and print its otpauth URI, once, alone on one line.

    An earlier code generator of NAME stops working; a locked one is unlocked in this way.
    """
    with desk(file) as services:
        if services.store.agents.get(name) is not None:
            raise GuardError(f"{name} is an agent; a code it can make itself would prove nothing")
        person = services.store.approvers.get(name)
        made = services.codes.enroll(name, issuer=services.config.deployment)
    options.only(made.uri, {"subject": name, "id": made.factor.id, "uri": made.uri}, as_json=as_json)
    options.note(f"put this into {name}'s authenticator app and nowhere else; it is not shown again")
    if person is None or person.removed:
        options.note(f"{name} may not approve yet: guard approver add {name}")


@enroll.command("break-glass")
@click.argument("name")
@options.config
@options.as_json
def enroll_break_glass(name: str, file: Path, as_json: bool) -> None:
    """Make a generator that lets the person NAME break glass, and print its otpauth URI, once, alone on one line.

    It is a second generator, apart from the everyday one: keep it on a device of its own, in a safe.
    """
    with desk(file) as services:
        if services.store.agents.get(name) is not None:
            raise GuardError(f"{name} is an agent; an emergency is a person's to declare")
        person = services.store.approvers.get(name)
        issuer = f"{services.config.deployment} break glass"
        made = services.emergency_codes.enroll(name, issuer=issuer)
    options.only(made.uri, {"subject": name, "id": made.factor.id, "uri": made.uri}, as_json=as_json)
    options.note("put this on a device that is used for nothing else, and lock that away; it is not shown again")
    if person is None or person.removed:
        options.note(f"{name} may do nothing with it yet: guard approver add {name}")


@enroll.command("signature")
@click.argument("name")
@click.option("--module", required=True, type=click.Path(path_type=Path), help="PKCS#11 module (shared library).")
@click.option("--token", required=True, help="Label of the token.")
@click.option("--key", required=True, help="Label of the key pair in the token (EC, P-256).")
@click.option("--pin-file", required=True, type=click.Path(path_type=Path), help="File whose first line is the PIN.")
@options.config
@options.as_json
def enroll_signature(
    *, name: str, module: Path, token: str, key: str, pin_file: Path, file: Path, as_json: bool
) -> None:
    """Enrol a key that was made in a token for agent NAME, and write the settings of its signer.

    The token is asked whether the key was made inside and could never leave; then it signs a nonce. An
    imported key is refused. An earlier key of NAME stops working.
    """
    require_pkcs11()
    from guard.signer.enrolment import ATTESTATION, attest  # noqa: PLC0415 - the PKCS#11 binding is optional
    from guard.signer.token import TokenKey  # noqa: PLC0415 - as above

    module, pin_file = module.absolute(), pin_file.absolute()
    held = TokenKey(module=module, token=token, key=key, pin_file=pin_file)
    with desk(file) as services:
        if services.store.approvers.get(name) is not None:
            raise GuardError(f"{name} is a person; a signing key belongs to an agent")
        place = SignerSettings.place(services.config.state, name)
        try:
            held.open()
            spki = attest(held)
        finally:
            held.close()
        enrolled = _enrolled(services, name, spki, ATTESTATION)
        SignerSettings(
            agent=name,
            factor=enrolled.id,
            audience=services.config.deployment,
            public_key=base64.b64encode(spki).decode("ascii"),
            module=module,
            token=token,
            key=key,
            pin_file=pin_file,
        ).write(place)
        known = services.store.agents.get(name) is not None
    options.only(enrolled.id, {"subject": name, "id": enrolled.id, "settings": str(place)}, as_json=as_json)
    options.note(f"{place} holds the signer's settings; next: guard signer test {name}; guard signer run {name}")
    if not known:
        options.note(f"no agent {name} is enrolled; that is right only for one that a JWT names")


@enroll.command("intent")
@click.argument("name")
@click.option(
    "--agent", "agents", multiple=True, required=True, help="Agents it may sign for: a glob; repeat for more."
)
@click.option("--server", "servers", multiple=True, default=("*",), show_default=True, help="Tool servers (a glob).")
@click.option("--public-key", type=click.Path(path_type=Path), help="PEM file with the public key; attestation 0.")
@click.option("--module", type=click.Path(path_type=Path), help="PKCS#11 module, where the token can be asked.")
@click.option("--token", default="", help="Label of the token.")
@click.option("--key", default="", help="Label of the key pair in the token (EC, P-256).")
@click.option("--pin-file", type=click.Path(path_type=Path), help="File whose first line is the PIN.")
@options.config
@options.as_json
def enroll_intent(
    *, name: str, agents: tuple[str, ...], servers: tuple[str, ...], public_key: Path | None, module: Path | None,
    token: str, key: str, pin_file: Path | None, file: Path, as_json: bool,
) -> None:  # fmt: skip
    """Let principal NAME (a release system, a change manager) sign intents for agents, with this key.

    A key in a token is examined as by `enroll signature` and has attestation 1. A public key from a file has
    attestation 0: its private half may be anywhere. An earlier key of NAME stops working.
    """
    if (public_key is None) == (module is None):
        raise click.UsageError("name the key: --public-key, or --module, --token, --key and --pin-file")
    if public_key is not None:
        spki, attestation = _public_key(public_key), 0
    else:
        assert module is not None
        if not (token and key and pin_file):
            raise click.UsageError("a key in a token needs --module, --token, --key and --pin-file")
        require_pkcs11()
        from guard.signer.enrolment import ATTESTATION, attest  # noqa: PLC0415 - the PKCS#11 binding is optional
        from guard.signer.token import TokenKey  # noqa: PLC0415 - as above

        held = TokenKey(module=module.absolute(), token=token, key=key, pin_file=pin_file.absolute())
        try:
            held.open()
            spki, attestation = attest(held), ATTESTATION
        finally:
            held.close()
    with desk(file) as services:
        made = services.intents.enroll(name, spki, agents=agents, servers=servers, attestation=attestation)
    options.only(made.id, {"subject": name, "id": made.id, "attestation": attestation}, as_json=as_json)
    options.note(f"{name} may sign intents for {', '.join(agents)} on {', '.join(servers)}")
    if not attestation:
        options.note("the key is not known to be in a token, so its intents have attestation 0; records say so")


def _public_key(file: Path) -> bytes:
    """The DER of a PEM public key.

    Raises:
        ConfigError: there is none in the file.
    """
    try:
        found = load_pem_public_key(file.read_bytes())
    except (OSError, ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"no PEM public key can be read: {error}", file=file) from error
    return found.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _enrolled(services: Desk, name: str, spki: bytes, attestation: int) -> Factor:
    """Store the key and retire earlier ones of the same agent.

    Raises:
        GuardError: the key signs intents, so that an agent which has it could consent to the calls of others.
    """
    now, factors = services.clock.now(), services.store.factors
    earlier = [one for one in factors.of(name, signature.KIND) if not one.revoked]
    made = signature.workload_factor(
        identifier=services.clock.token("f"), subject=name, spki=spki, attestation=attestation, now=now
    )
    if any(one.public.get("spki") == made.public["spki"] for one in factors.of("", quorum.INTENT)):
        raise GuardError("this key is enrolled for signing intents", reason=Code.FACTOR_UNSUITABLE)
    factors.add(made)
    for one in earlier:
        register.revoke(factors, one, now)
    services.ledger.append(
        "factor.enrolled", {"factor": made.id, "kind": made.kind, "subject": name, "attestation": attestation}
    )
    return made


@factor.command("ls")
@options.config
@options.as_json
def list_(file: Path, as_json: bool) -> None:
    """List all factors."""
    with desk(file) as services:
        found = services.store.factors.of("")
    options.show(
        (
            {
                "id": one.id,
                "kind": one.kind,
                "subject": one.subject,
                "state": "revoked" if one.revoked else "locked" if one.locked else "live",
                "attestation": one.attestation,
                "created": options.moment(one.created),
            }
            for one in found
        ),
        columns=("id", "kind", "subject", "state", "attestation", "created"),
        as_json=as_json,
    )


@factor.command()
@click.argument("id")
@options.config
def lock(id: str, file: Path) -> None:
    """Lock factor ID, or every factor of the person or agent ID, until they are enrolled again."""
    with desk(file) as services:
        for one in _named(services, id):
            if register.lock(services.store.factors, one, services.clock.now()):
                services.ledger.append(
                    "factor.locked", {"factor": one.id, "kind": one.kind, "subject": one.subject, "by": "guard factor"}
                )
            options.note(f"{one.id} of {one.subject} is locked")


@factor.command()
@click.argument("id")
@options.config
def revoke(id: str, file: Path) -> None:
    """Revoke factor ID, or every factor of the person or agent ID, for good."""
    with desk(file) as services:
        for one in _named(services, id):
            if register.revoke(services.store.factors, one, services.clock.now()):
                services.ledger.append("factor.revoked", {"factor": one.id, "kind": one.kind, "subject": one.subject})
            options.note(f"{one.id} of {one.subject} is revoked")


def _named(services: Desk, name: str) -> Sequence[Factor]:
    """The live factors of this id or subject.

    Raises:
        NotFoundError: there is none.
    """
    one = services.store.factors.get(name)
    found = [one] if one else list(services.store.factors.of(name)) if name else []
    live = [factor for factor in found if not factor.revoked]
    if not live:
        raise NotFoundError(f"there is no live factor {name}")
    return live
