"""`guard intent`: what somebody else wants an agent to do, signed before the agent asks."""

from __future__ import annotations

import getpass
import json
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

import click
import httpx2

from guard.app import desk
from guard.cli import options
from guard.clock import SystemClock
from guard.config import load
from guard.errors import ConfigError, NotFoundError, ProofError, UnavailableError, WireError
from guard.factors.ecdsa import spki, thumbprint
from guard.factors.intent import KIND, envelope
from guard.intents import Intent
from guard.model import Json
from guard.signer.filekey import FileKey
from guard.signer.settings import require_pkcs11
from guard.stepup.intent import Manifest, parse, payload, signed_bytes
from guard.web.intents import describe
from guard.wire.canonical import canonical, digest
from guard.wire.strict import read

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION: Final = re.compile(r"([1-9][0-9]{0,5})([smhd])", re.ASCII)
_SECONDS: Final = 10.0
_CREATED: Final = frozenset({200, 201})


class Key(Protocol):
    """What signs: a key in a token, or in a file."""

    def sign(self, message: bytes) -> bytes:
        """r‖s over SHA-256 of the message."""

    def public_spki(self) -> bytes:
        """The DER public key."""


@click.group()
def intent() -> None:
    """Sign in advance which calls of an agent are wanted, and see and revoke what was signed."""


@intent.command()
@click.option("--as", "signer", required=True, help="Principal that signs (see factor enroll intent).")
@click.option("--agent", required=True, help="The agent whose calls are wanted.")
@click.option("--server", required=True, help="Configured name of the tool server.")
@click.option("--tool", required=True, help="Name of the tool.")
@click.option("--argument", "arguments", multiple=True, help="NAME=TEXT or NAME:=JSON that is wanted; repeat for more.")
@click.option("--arguments", "exactly", type=click.Path(path_type=Path), help="JSON file with exactly what is wanted.")
@click.option("--when", default="", help="Condition in CEL over args and now, beside or instead of arguments.")
@click.option("--definition", default="", help="Digest of the tool's definition; without it, the pinned one counts.")
@click.option("--from", "begins", default="", help="When the window begins, as 2026-11-25T08:00Z; without it, now.")
@click.option("--for", "lasts", default="1h", show_default=True, help="How long the window is: 90s, 10m, 2h or 1d.")
@click.option("--uses", default=1, show_default=True, help="On how many calls it may be used.")
@click.option("--ticket", default="", help="Number of the change ticket.")
@click.option("--reason", default="", help="Why, in a line; it is recorded and shown.")
@click.option("--module", type=click.Path(path_type=Path), help="PKCS#11 module of the signer's token.")
@click.option("--token", default="", help="Label of the token.")
@click.option("--key", default="", help="Label of the key pair in the token.")
@click.option("--pin-file", type=click.Path(path_type=Path), help="File whose first line is the PIN.")
@click.option("--key-file", type=click.Path(path_type=Path), help="PEM file with the key instead of a token: weaker.")
@click.option("--audience", default="", help="`deployment` it is for; by default of guard.toml.")
@click.option("--to", "url", default="", help="Console to publish to, instead of the state here.")
@click.option("--ca-file", type=click.Path(path_type=Path), help="PEM certificates that vouch for an https console.")
@click.option("--output", type=click.Path(path_type=Path), help="Write the envelope here (-: stdout), unpublished.")
@options.config
@options.as_json
def sign(
    *, signer: str, agent: str, server: str, tool: str, arguments: tuple[str, ...], exactly: Path | None, when: str,
    definition: str, begins: str, lasts: str, uses: int, ticket: str, reason: str, module: Path | None, token: str,
    key: str, pin_file: Path | None, key_file: Path | None, audience: str, url: str, ca_file: Path | None,
    output: Path | None, file: Path, as_json: bool,
) -> None:  # fmt: skip
    """Sign an intent, publish it, and print its id, alone on one line.

    An argument that neither --argument nor --when names is outside the intent, and so is a call that has one. CI
    signs on its own machine and publishes with --to, before the agent runs; its signature is all it needs there.
    """
    if not (arguments or exactly or when):
        raise click.UsageError("say which arguments are wanted: --argument, --arguments or --when")
    clock = SystemClock()
    now = int(clock.now())
    start = _time(begins) if begins else now
    with _key(module, token, key, pin_file, key_file) as held:
        public = held.public_spki()
        manifest = Manifest(
            id=clock.token("i"),
            audience=audience or _audience(file),
            signer=signer,
            key=thumbprint(public),
            agent=agent,
            server=server,
            tool=tool,
            definition=definition,
            exact=digest(canonical(_object(exactly))) if exactly else "",
            equals=dict(map(_argument, arguments)) if arguments else None,
            when=when,
            issued=now,
            begins=start,
            ends=start + _seconds(lasts),
            uses=uses,
            ticket=ticket,
            reason=reason,
        )
        raw = payload(manifest)
        parse(raw)
        signed = envelope(raw, held.sign(signed_bytes(raw)), manifest.key)
    _hand_over(manifest, signed, output=output, url=url, ca_file=ca_file, file=file, as_json=as_json)


def _hand_over(
    manifest: Manifest,
    signed: Mapping[str, Json],
    *,
    output: Path | None,
    url: str,
    ca_file: Path | None,
    file: Path,
    as_json: bool,
) -> None:
    """Write a signed intent to a file, or publish it at a console or here."""
    if output is not None:
        with click.open_file(str(output), "w", encoding="utf-8") as out:
            out.write(json.dumps(signed) + "\n")
        return
    if url:
        data = _publish(url, signed, ca_file)
    else:
        with desk(file) as services:
            data = describe(services.intents.publish(signed), now=services.clock.now())
    options.only(manifest.id, data, as_json=as_json)
    times = "once" if manifest.uses == 1 else f"{manifest.uses} times"
    until = options.moment(manifest.ends)
    options.note(f"{manifest.agent} may call {manifest.tool} of {manifest.server} {times} until {until}")


@intent.command()
@click.argument("envelope", type=click.Path(path_type=Path))
@options.config
@options.as_json
def publish(envelope: Path, file: Path, as_json: bool) -> None:
    """Publish the signed ENVELOPE that `guard intent sign --output` wrote, in the state of this guard."""
    signed = _object(envelope)
    with desk(file) as services:
        data = describe(services.intents.publish(signed), now=services.clock.now())
    options.only(str(data["id"]), data, as_json=as_json)


@intent.command("ls")
@options.config
@options.as_json
def list_(file: Path, as_json: bool) -> None:
    """List the newest intents, those that are over too."""
    with desk(file) as services:
        now = services.clock.now()
        found = services.store.intents.find(limit=1000)
        levels = {thumbprint(spki(one)): one.attestation for one in services.store.factors.of("", KIND)}
    options.show(
        (_row(one, now, levels) for one in found),
        columns=("id", "state", "agent", "server", "tool", "signer", "attestation", "uses", "ends", "ticket"),
        as_json=as_json,
    )


def _row(one: Intent, now: float, levels: Mapping[str, int]) -> dict[str, Json]:
    told = describe(one, now=now)
    told["attestation"] = levels.get(str(told.pop("key", "")), 0)
    row: dict[str, Json] = {"signer": "", "ticket": "", "reason": "", **told}
    return row | {"uses": f"{one.used}/{told.get('uses', '?')}", "ends": options.moment(one.ends)}


@intent.command()
@click.argument("id")
@options.config
def revoke(id: str, file: Path) -> None:
    """Take the intent ID (i_...) back; calls it was spent on already have happened."""
    try:
        by = getpass.getuser()
    except (OSError, KeyError):
        by = "guard intent"
    with desk(file) as services:
        if not services.store.intents.revoke(id, services.clock.now()):
            raise NotFoundError(f"there is no intent {id} that is not revoked")
        services.ledger.append("intent.revoked", {"intent": id, "by": by})
    options.note(f"{id} is revoked")


# ------------------------------------------------------------------ the signer's key


@contextmanager
def _key(module: Path | None, token: str, key: str, pin_file: Path | None, key_file: Path | None) -> Iterator[Key]:
    """The signer's key, in a token or in a file."""
    if key_file is not None:
        if module or token or key or pin_file:
            raise click.UsageError("the key is in a token or in a file, not in both")
        yield FileKey.read(key_file)
        return
    if not (module and token and key and pin_file):
        raise click.UsageError("name the key: --module, --token, --key and --pin-file, or --key-file")
    require_pkcs11()
    from guard.signer.token import TokenKey  # noqa: PLC0415 - the PKCS#11 binding is optional

    held = TokenKey(module=module.absolute(), token=token, key=key, pin_file=pin_file.absolute())
    try:
        held.open()
        yield held
    finally:
        held.close()


# ------------------------------------------------------------------ what is wanted


def _argument(said: str) -> tuple[str, Json]:
    """`NAME=TEXT`, or `NAME:=JSON`."""
    name, sign, value = said.partition("=")
    if not sign or not name.rstrip(":"):
        raise click.UsageError(f"{said!r} is neither NAME=TEXT nor NAME:=JSON")
    if not name.endswith(":"):
        return name, value
    try:
        return name[:-1], read(value.encode())
    except WireError as error:
        raise click.UsageError(f"the value of {name[:-1]} is not JSON: {error.public}") from error


def _object(file: Path) -> Mapping[str, Json]:
    """The JSON object in a file.

    Raises:
        ConfigError: there is none.
    """
    try:
        value = read(file.read_bytes(), exact_integers=True)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error}", file=file) from error
    except WireError as error:
        raise ConfigError(error.public, file=file) from error
    if not isinstance(value, Mapping):
        raise ConfigError("this is not one JSON object", file=file)
    return value


def _seconds(text: str) -> int:
    found = _DURATION.fullmatch(text)
    if found is None:
        raise click.UsageError(f"{text!r} is not a duration such as 90s, 10m, 2h or 1d")
    return int(found[1]) * _UNITS[found[2]]


def _time(text: str) -> int:
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.UsageError(f"{text!r} is not a time such as 2026-11-25T08:00Z") from error
    if found.tzinfo is None:
        raise click.UsageError(f"{text!r} does not say in which zone; add Z or an offset")
    return int(found.timestamp())


def _audience(file: Path) -> str:
    """The installation a guard.toml here is about; a CI machine has none and means the usual name."""
    return load(file).deployment if file.exists() else "guard"


# ------------------------------------------------------------------ publishing over HTTP


def _publish(url: str, signed: Mapping[str, Json], ca_file: Path | None) -> dict[str, Json]:
    """Send an envelope to a console.

    Raises:
        UnavailableError: the console cannot be reached.
        ProofError: it does not take the intent.
    """
    trusted = ssl.create_default_context(cafile=str(ca_file)) if ca_file else True
    try:
        with httpx2.Client(timeout=_SECONDS, follow_redirects=False, verify=trusted) as client:
            answer = client.post(url.rstrip("/") + "/v1/intents", json=signed)
            told = answer.json()
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise UnavailableError(f"the console at {url} cannot be reached", detail=type(error).__name__) from error
    except ValueError as error:
        raise UnavailableError(f"what is at {url} is no console of a guard") from error
    if answer.status_code not in _CREATED or not isinstance(told, dict):
        message = told.get("message", "") if isinstance(told, dict) else ""
        raise ProofError(f"the console does not take the intent ({answer.status_code}): {message}")
    return told
