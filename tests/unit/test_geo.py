"""Where an address is, by databases the owner provides; what is not known is never taken for harmless."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from mmdb_writer import MMDBWriter
from netaddr import IPSet

from guard.cli.policy import policy
from guard.config import load
from guard.errors import ConfigError
from guard.geo import locator
from guard.model import Call, Principal, Source
from guard.policy.classify import classify
from guard.policy.directory import PolicyDirectory

POLICY = """server: vault
tools:
  at_home: {sensitivity: critical, rules: [{when: 'source.country in ["DE", "CH"]', sensitivity: public}]}
  abroad: {sensitivity: public, rules: [{when: 'source.country != "DE"', sensitivity: critical}]}
  carrier: {sensitivity: critical, rules: [{when: source.asn == 3320, sensitivity: public}]}
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    country, system = MMDBWriter(ip_version=6, ipv4_compatible=True), MMDBWriter(ip_version=6, ipv4_compatible=True)
    country.insert_network(IPSet(["198.51.100.0/24", "2001:db8::/32"]), {"country": {"iso_code": "DE"}})
    country.insert_network(IPSet(["203.0.113.0/24"]), {"country": {"iso_code": "FR"}})
    country.insert_network(IPSet(["192.0.2.0/24"]), {"continent": {"code": "EU"}})
    system.insert_network(IPSet(["198.51.100.0/24"]), {"autonomous_system_number": 3320})
    country.to_db_file(str(tmp_path / "country.mmdb"))
    system.to_db_file(str(tmp_path / "asn.mmdb"))
    (tmp_path / "tool_policies").mkdir()
    (tmp_path / "tool_policies/vault.yaml").write_text(POLICY)
    (tmp_path / "guard.toml").write_text("[geo]\ncountry = 'country.mmdb'\nasn = 'asn.mmdb'\n")
    return tmp_path


def says(home: Path, tool: str, address: str) -> str:
    config = load(home / "guard.toml")
    policies = PolicyDirectory(config.policies, locate=locator(config)).load()
    asked = Call(
        id="k_1", principal=Principal(subject="robot", credential="c"), server="vault", method="tools/call",
        source=Source(transport="http", address=address), kind="tool", name=tool, arguments={}, canonical="",
        definition="", digest="", received=0.0,
    )  # fmt: skip
    return classify(policies, asked, now=0.0).sensitivity.label


@pytest.mark.parametrize(
    ("tool", "address", "expected"),
    [
        ("at_home", "198.51.100.7", "public"),
        ("at_home", "::ffff:198.51.100.7", "public"),
        ("at_home", "2001:db8::1", "public"),
        ("at_home", "203.0.113.7", "critical"),
        ("abroad", "198.51.100.7", "public"),
        ("abroad", "203.0.113.7", "critical"),
        ("carrier", "198.51.100.7", "public"),
    ],
)
def test_conditions_ask_for_country_and_system(home: Path, tool: str, address: str, expected: str) -> None:
    assert says(home, tool, address) == expected


@pytest.mark.parametrize("tool", ["at_home", "abroad", "carrier"])
@pytest.mark.parametrize("address", ["", "10.0.0.1", "192.0.2.1", "no address", "fe80::1%eth0"])
def test_an_address_that_no_database_knows_takes_the_stricter_branch(home: Path, tool: str, address: str) -> None:
    assert says(home, tool, address) == "critical"


@pytest.mark.parametrize("tool", ["at_home", "abroad", "carrier"])
def test_without_a_database_the_stricter_branch_counts_and_the_check_says_so(home: Path, tool: str) -> None:
    (home / "guard.toml").write_text("[geo]\n")
    assert says(home, tool, "198.51.100.7") == "critical"
    done = CliRunner().invoke(policy, ["check", "--config", str(home / "guard.toml")])
    assert "source.country is never known" in done.stdout
    assert "source.asn is never known" in done.stdout


@pytest.mark.parametrize("content", [None, b"", b"no database"])
def test_a_file_that_is_no_database_is_told_at_start(home: Path, content: bytes | None) -> None:
    (home / "asn.mmdb").unlink()
    if content is not None:
        (home / "asn.mmdb").write_bytes(content)
    with pytest.raises(ConfigError, match="cannot be read as a MaxMind database"):
        locator(load(home / "guard.toml"))
