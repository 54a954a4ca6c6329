"""Signatures of webhooks in both directions, as Standard Webhooks 1.0 defines them. Pure.

`webhook-signature: v1,BASE64` is the HMAC-SHA-256 of `ID.TIMESTAMP.BODY` under a key both sides share; libraries that
check it exist for most languages (https://www.standardwebhooks.com). A notice and an order to deny have different
`type`s, so that what the guard sent cannot be sent back to it as an order.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Final

from guard.errors import ConfigError, IdentityError

TOLERANCE: Final = 300.0
"""Seconds a signed request may be old, or ahead."""

_PREFIX: Final = "whsec_"
_KEY_BYTES: Final = 24
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,128}")
_SECONDS: Final = re.compile(r"[0-9]{1,12}")


def key_of(secret: str) -> bytes:
    """The key behind a secret: `whsec_` and at least 24 bytes in base64.

    Raises:
        ConfigError: it is something else.
    """
    message = "a webhook's secret is whsec_ and at least 24 bytes in base64: echo whsec_$(openssl rand -base64 32)"
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ConfigError(message) from None
    if not secret.startswith(_PREFIX) or len(key) < _KEY_BYTES:
        raise ConfigError(message)
    return key


def signed(key: bytes, message: str, at: float, body: bytes) -> Mapping[str, str]:
    """The headers that sign `body`; `message` is an id of its own, `at` is in Unix seconds."""
    stamp = str(int(at))
    return {
        "webhook-id": message,
        "webhook-timestamp": stamp,
        "webhook-signature": _signature(key, message, stamp, body),
    }


def check(key: bytes, headers: Mapping[str, str], body: bytes, now: float) -> None:
    """Check that the holder of the key signed this body a short while ago.

    Raises:
        IdentityError: nobody did.
    """
    message, stamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not _ID.fullmatch(message) or not _SECONDS.fullmatch(stamp) or not abs(now - int(stamp)) <= TOLERANCE:
        raise IdentityError("the request is not signed, or its time is not now")
    expected = _signature(key, message, stamp, body).encode()
    given = headers.get("webhook-signature", "").split(" ")
    if not any(hmac.compare_digest(one.encode(), expected) for one in given):
        raise IdentityError("the signature of the request does not verify")


def _signature(key: bytes, message: str, stamp: str, body: bytes) -> str:
    made = hmac.new(key, f"{message}.{stamp}.".encode() + body, sha256).digest()
    return f"v1,{base64.b64encode(made).decode('ascii')}"
