"""Both listeners speak TLS when they are given a certificate, and nothing else then."""

from __future__ import annotations

import datetime as dt
import http.client
import ipaddress
import json
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from guard.config import load
from guard.errors import ConfigError
from tests.world import GUARD, free_port, until


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key, as PEM files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "guard test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


@pytest.fixture
def ports(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """The ports of a running `guard serve` with TLS on both listeners."""
    certificate(tmp_path)
    proxy, console = free_port(), free_port()
    tls = "tls_cert = 'cert.pem'\ntls_key = 'key.pem'\n"
    (tmp_path / "tool_policies").mkdir()
    (tmp_path / "guard.toml").write_text(
        f"[proxy]\nlisten = '127.0.0.1:{proxy}'\n{tls}"
        f"[console]\nlisten = '127.0.0.1:{console}'\n{tls}"
        "[servers.web]\nurl = 'http://127.0.0.1:9/mcp'\n"
    )
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen([GUARD, "serve", "--config", tmp_path / "guard.toml"], stderr=log)
    try:
        until(lambda: get(tmp_path, console, "/healthz") == 200, "the console answers over TLS", within=30)
        yield proxy, console
    finally:
        process.terminate()
        process.wait(10)


def get(folder: Path, port: int, path: str, method: str = "GET") -> int:
    """The status of a request over TLS that trusts only the test's certificate; 0 when nobody listens yet."""
    context = ssl.create_default_context(cafile=folder / "cert.pem")
    with closing(http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=10)) as connection:
        try:
            connection.request(method, path, json.dumps({}), {"Content-Type": "application/json"})
            return connection.getresponse().status
        except OSError:  # it does not listen yet, or listens and does not answer yet
            return 0


def test_the_mcp_endpoint_speaks_tls_with_its_certificate(tmp_path: Path, ports: tuple[int, int]) -> None:
    assert get(tmp_path, ports[0], "/mcp/web", "POST") == 401


def test_plain_http_gets_no_answer_from_a_tls_listener(ports: tuple[int, int]) -> None:
    for port in ports:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
            connection.request("GET", "/healthz")
            with pytest.raises((http.client.HTTPException, ConnectionError)):
                connection.getresponse()


def test_a_listener_beyond_loopback_without_tls_is_refused_with_the_remedy(tmp_path: Path) -> None:
    file = tmp_path / "guard.toml"
    file.write_text('[proxy]\nlisten = "0.0.0.0:7000"\n')
    with pytest.raises(ConfigError, match=r"guard\.toml:1:1: .*tls_cert.*insecure = true"):
        load(file)
    file.write_text('[proxy]\nlisten = "0.0.0.0:7000"\ninsecure = true\n')
    assert load(file).proxy.insecure
