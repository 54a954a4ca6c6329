"""An OpenID provider on a local port: discovery, authorization code with PKCE, tokens signed with real keys, a key set.

It speaks OpenID Connect Core 1.0 and Discovery 1.0 and keeps to them, but for what a test changes. Tokens are made here
by hand, with `cryptography` alone: what the guard checks them with has no part in it.
"""

from __future__ import annotations

import base64
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote_plus, urlencode, urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

CLIENT, SECRET = "console", "a+secret:of/the client"
JSON = Mapping[str, Any]


def encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode("ascii").rstrip("=")


class Key:
    """A key of the provider's: P-256, or RSA where asked for."""

    def __init__(self, kid: str, *, bits: int = 0) -> None:
        self.kid, self.bits = kid, bits
        self.private = rsa.generate_private_key(65537, bits) if bits else ec.generate_private_key(ec.SECP256R1())

    @property
    def jwk(self) -> JSON:
        public = self.private.public_key()
        common = {"use": "sig", "kid": self.kid}
        if isinstance(public, rsa.RSAPublicKey):
            numbers = public.public_numbers()
            return {"kty": "RSA", "n": _number(numbers.n), "e": _number(numbers.e), **common}
        point = public.public_numbers()
        return {"kty": "EC", "crv": "P-256", "x": _number(point.x, 32), "y": _number(point.y, 32), **common}

    def sign(self, claims: JSON, **header: str) -> str:
        """A compact JWS, ES256 or RS256 whatever the header is made to say."""
        signed = unsigned(claims, **{"alg": "RS256" if self.bits else "ES256", "kid": self.kid, **header})
        if isinstance(self.private, rsa.RSAPrivateKey):
            return f"{signed}.{encode(self.private.sign(signed.encode(), padding.PKCS1v15(), SHA256()))}"
        r, s = decode_dss_signature(self.private.sign(signed.encode(), ec.ECDSA(SHA256())))
        return f"{signed}.{encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def _number(value: int, size: int = 0) -> str:
    return encode(value.to_bytes(size or (value.bit_length() + 7) // 8, "big"))


def unsigned(claims: JSON, **header: str) -> str:
    return ".".join(encode(json.dumps(part).encode()) for part in (header, claims))


def with_secret(claims: JSON, secret: bytes, **header: str) -> str:
    """A JWS by HMAC."""
    signed = unsigned(claims, alg="HS256", **header)
    return f"{signed}.{encode(hmac.digest(secret, signed.encode(), 'sha256'))}"


@dataclass
class OpenIdProvider:
    """What it says and does; the fields may be changed while it runs."""

    url: str = ""
    keys: list[Key] = field(default_factory=lambda: [Key("one")])
    person: dict[str, Any] = field(default_factory=lambda: {"sub": "ann"})
    acr: str = "urn:strong"
    authenticated: float = 0
    asked: dict[str, str] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    change_discovery: Callable[[dict[str, Any]], None] = lambda _: None
    change_claims: Callable[[dict[str, Any]], None] = lambda _: None
    token: Callable[[JSON], str] | None = None
    answer: Callable[[str], tuple[int, Mapping[str, str], bytes] | None] = lambda _: None
    """What to answer to a path in place of what is right."""
    hang: threading.Event | None = None

    def discovery(self) -> JSON:
        said: dict[str, Any] = {
            "issuer": self.url,
            "authorization_endpoint": f"{self.url}/authorize",
            "token_endpoint": f"{self.url}/token",
            "jwks_uri": f"{self.url}/keys",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }
        self.change_discovery(said)
        return said

    def authorize(self, query: str) -> str:
        """Log the person in without asking; where their browser is sent."""
        self.asked = dict(parse_qsl(query))
        assert self.asked["response_type"] == "code"
        assert self.asked["client_id"] == CLIENT
        assert self.asked["code_challenge_method"] == "S256"
        assert "openid" in self.asked["scope"].split()
        code = secrets.token_urlsafe(16)
        self.codes[code] = self.asked
        back = {"code": code, "state": self.asked["state"], "iss": self.url}
        return f"{self.asked['redirect_uri']}?{urlencode(back)}"

    def exchange(self, authorization: str, form: Mapping[str, str]) -> tuple[int, JSON]:
        """The answer to a code: once, to its client, for its redirect URI and verifier."""
        scheme, _, pair = authorization.partition(" ")
        name, _, secret = base64.b64decode(pair).decode().partition(":")
        if scheme != "Basic" or (unquote_plus(name), unquote_plus(secret)) != (CLIENT, SECRET):
            return 401, {"error": "invalid_client"}
        asked = self.codes.pop(form["code"], None)
        challenge = encode(sha256(form["code_verifier"].encode()).digest())
        if (
            asked is None
            or form["grant_type"] != "authorization_code"
            or (asked["redirect_uri"], asked["code_challenge"]) != (form["redirect_uri"], challenge)
        ):
            return 400, {"error": "invalid_grant"}
        now = time.time()
        claims: dict[str, Any] = {
            "iss": self.url,
            "aud": CLIENT,
            "iat": int(now),
            "exp": int(now) + 300,
            "auth_time": int(self.authenticated or now),
            "nonce": asked["nonce"],
            "acr": self.acr,
            **self.person,
        }
        self.change_claims(claims)
        token = self.token(claims) if self.token else self.keys[-1].sign(claims)
        return 200, {"access_token": "unused", "token_type": "Bearer", "id_token": token}


class Handler(BaseHTTPRequestHandler):
    """HTTP of the provider that its server carries."""

    server: Server

    def do_GET(self) -> None:
        parts, house = urlsplit(self.path), self.server.house
        if self._instead(parts.path):
            return
        if parts.path == "/authorize":
            self._send(302, {"location": house.authorize(parts.query)}, b"")
        elif parts.path == "/keys":
            self._json(200, {"keys": [key.jwk for key in house.keys]})
        else:
            self._json(200, house.discovery())

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        if not self._instead(self.path):
            form = {name: values[0] for name, values in parse_qs(body).items()}
            self._json(*self.server.house.exchange(self.headers["authorization"] or "", form))

    def _instead(self, path: str) -> bool:
        house = self.server.house
        house.requests.append(path)
        if house.hang is not None:
            house.hang.wait(30)
        other = house.answer(path)
        if other is not None:
            self._send(*other)
        return other is not None

    def _json(self, status: int, said: JSON) -> None:
        self._send(status, {"content-type": "application/json"}, json.dumps(said).encode())

    def _send(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        with suppress(OSError):  # whoever asked may have given up
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Carries one provider."""

    daemon_threads = True
    house: OpenIdProvider


@contextmanager
def provider() -> Iterator[OpenIdProvider]:
    """One that runs until the block ends."""
    server = Server(("127.0.0.1", 0), Handler)
    house = server.house = OpenIdProvider(url=f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield house
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
