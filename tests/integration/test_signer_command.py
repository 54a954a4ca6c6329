"""`guard factor enroll signature` and `guard signer` as people run them, on a SoftHSM token of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

pytest.importorskip("pkcs11", reason="the extra `hsm` is not installed")

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
pytestmark = pytest.mark.skipif(
    not MODULE.exists() or shutil.which("softhsm2-util") is None, reason="SoftHSM 2 is not installed"
)
GENERATE = """
import pkcs11, sys
from pkcs11.util.ec import encode_named_curve_parameters
token = pkcs11.lib(sys.argv[1]).get_token(token_label="guard")
with token.open(rw=True, user_pin="1234") as session:
    curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
    domain = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
    for label in ("made", "release"):
        domain.generate_keypair(store=True, label=label)
"""


@dataclass
class Shop:
    """A folder with a guard.toml, a token, and a PIN file."""

    folder: Path
    environment: Mapping[str, str]

    def guard(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run(sys.executable, "-c", "from guard.cli import main; main()", *arguments)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False, timeout=40
        )

    def enroll(self, key: str) -> subprocess.CompletedProcess[str]:
        return self.guard(
            *("factor", "enroll", "signature", "robot", "--module", str(MODULE)),
            *("--token", "guard", "--key", key, "--pin-file", "pin"),
        )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    folder = tmp_path_factory.mktemp("shop")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder / 'tokens'}\nlog.level = ERROR\n")
    (folder / "guard.toml").write_text('state = "state"\n')
    (folder / "pin").write_text("1234\n")
    (folder / "key.pem").write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    made = Shop(folder, {**os.environ, "SOFTHSM2_CONF": str(folder / "softhsm2.conf")})
    for command in (
        ("softhsm2-util", "--init-token", "--free", "--label", "guard", "--pin", "1234", "--so-pin", "5678"),
        (sys.executable, "-c", GENERATE, str(MODULE)),
        (
            *("softhsm2-util", "--import", "key.pem", "--token", "guard"),
            *("--label", "imported", "--id", "ff", "--pin", "1234"),
        ),
    ):
        done = made.run(*command)
        assert done.returncode == 0, done.stderr
    return made


def test_a_key_made_in_the_token_is_enrolled_and_an_imported_one_is_not(shop: Shop) -> None:
    refused = shop.enroll("imported")
    assert refused.returncode == 1
    assert "imported" in refused.stderr
    enrolled = shop.enroll("made")
    assert (enrolled.returncode, enrolled.stdout.count("\n")) == (0, 1), enrolled.stderr
    assert (shop.folder / "state" / "signers" / "robot.toml").stat().st_mode & 0o077 == 0
    assert shop.guard("signer", "test", "robot").returncode == 0


def test_a_key_that_signs_intents_speaks_for_no_workload(shop: Shop) -> None:
    key = ("--module", str(MODULE), "--token", "guard", "--key", "release", "--pin-file", "pin")
    assert shop.guard("factor", "enroll", "intent", "ci", "--agent", "robot", *key).returncode == 0
    refused = shop.guard("factor", "enroll", "signature", "builder", *key)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "signing intents" in refused.stderr
    assert not (shop.folder / "state" / "signers" / "builder.toml").exists()


def test_a_wrong_pin_ends_the_signer_with_2_and_one_sentence(shop: Shop) -> None:
    assert shop.enroll("made").returncode == 0
    (shop.folder / "pin").write_text("9999\n")
    try:
        for verb in ("run", "test"):
            done = shop.guard("signer", verb, "robot")
            assert done.returncode == 2
            assert "PIN" in done.stderr
            assert "Traceback" not in done.stderr
    finally:
        (shop.folder / "pin").write_text("1234\n")


def test_an_agent_without_a_signer_is_named(shop: Shop) -> None:
    done = shop.guard("signer", "run", "nobody")
    assert done.returncode == 2
    assert "guard factor enroll signature nobody" in done.stderr


def test_sigterm_ends_the_signer_in_order(shop: Shop) -> None:
    assert shop.enroll("made").returncode == 0
    with subprocess.Popen(
        [sys.executable, "-c", "from guard.cli import main; main()", "signer", "run", "robot"],
        cwd=shop.folder,
        env=shop.environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as signer:
        assert signer.stderr is not None
        try:
            assert any("token open" in line for line in signer.stderr)
            signer.send_signal(signal.SIGTERM)
            assert signer.wait(30) == 0
        finally:
            signer.kill()
