"""A SoftHSM token of our own, with a P-256 key that never leaves it: what a real HSM's tools do at enrolment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
LABEL, PIN = "guard-demo", "648219"
_GENERATE = """
import sys
import pkcs11
from pkcs11.util.ec import encode_named_curve_parameters
module, token, pin, label = sys.argv[1:]
with pkcs11.lib(module).get_token(token_label=token).open(rw=True, user_pin=pin) as session:
    parameters = session.create_domain_parameters(
        pkcs11.KeyType.EC, {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}, local=True
    )
    parameters.generate_keypair(
        store=True,
        label=label,
        private_template={pkcs11.Attribute.EXTRACTABLE: False, pkcs11.Attribute.SENSITIVE: True},
    )
"""


class SoftHsm:
    """One token in a directory; `env` lets other processes find it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pin_file = folder, folder / "pin"
        self.env = {"SOFTHSM2_CONF": str(folder / "softhsm2.conf")}
        self.module = next((path for path in MODULES if Path(path).exists()), MODULES[0])

    def generate(self, label: str) -> None:
        """Initialise the token and generate a key pair inside it."""
        tokens = self.folder / "tokens"
        tokens.mkdir(parents=True)
        (self.folder / "softhsm2.conf").write_text(f"directories.tokendir = {tokens}\nlog.level = ERROR\n")
        self.pin_file.touch(mode=0o600)
        self.pin_file.write_text(PIN)
        command = ["softhsm2-util", "--init-token", "--free", "--label", LABEL, "--so-pin", PIN, "--pin", PIN]
        subprocess.run(
            command, env={"PATH": "/usr/bin:/bin:/usr/local/bin", **self.env}, check=True, capture_output=True
        )
        generate = [sys.executable, "-c", _GENERATE, self.module, LABEL, PIN, label]
        subprocess.run(generate, env=self.env, check=True, capture_output=True)

    def options(self, label: str) -> list[str]:
        """What `guard factor enroll signature` wants to know."""
        return ["--module", self.module, "--token", LABEL, "--key", label, "--pin-file", str(self.pin_file)]
