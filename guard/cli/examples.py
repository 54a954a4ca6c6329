"""One example for every verb, which its `--help` and the reference end with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import click

_AS_IT_STANDS: Final = "\b\n"  # click breaks no line of such a paragraph, so that it can be copied
EXAMPLES: Final[Mapping[str, str]] = {
    "init": "guard init --wrap cursor --approver ann",
    "wrap": "guard wrap cursor --dry-run",
    "unwrap": "guard unwrap cursor",
    "serve": "guard serve --config /etc/guard/guard.toml",
    "run": "GUARD_AGENT_KEY=grd_... guard run git",
    "doctor": "guard doctor --json",
    "policy check": "guard policy check --live --strict",
    "policy diff": "guard policy diff tool_policies candidate --ledger traffic.jsonl --markdown",
    "policy explain": "guard policy explain call.json",
    "policy pin": "guard policy pin payments refund --show",
    "policy replay": "guard policy replay --against candidate",
    "policy scaffold": "guard policy scaffold shop --output tool_policies/shop.yaml",
    "policy schema": "guard policy schema > tool-policy.schema.json",
    "policy test": "guard policy test --missed --cover 80",
    "agent add": "guard agent add deployer --owner oli --group release",
    "agent describe": "guard agent describe deployer --no-group release --claim posture=lost",
    "agent ls": "guard agent ls",
    "agent revoke": "guard agent revoke deployer",
    "agent rotate": "guard agent rotate deployer --overlap 5m",
    "agent show": "guard agent show deployer",
    "approver add": "guard approver add ann --group payments-oncall",
    "approver invite": "guard approver invite ann",
    "approver ls": "guard approver ls",
    "approver remove": "guard approver remove ann",
    "factor enroll break-glass": "guard factor enroll break-glass ann",
    "factor enroll intent": "guard factor enroll intent releases --agent deployer --server k8s --public-key ci.pub",
    "factor enroll signature": "guard factor enroll signature robot --module LIB --token prod --key bot --pin-file pin",
    "factor enroll totp": "guard factor enroll totp ann",
    "factor lock": "guard factor lock ann",
    "factor ls": "guard factor ls",
    "factor revoke": "guard factor revoke f_6d9haHIIoARdXlirEkE8EB",
    "signer run": "guard signer run robot",
    "signer test": "guard signer test robot",
    "challenge approve": "guard challenge approve c_... --as ann --code 123456",
    "challenge break-glass": "guard challenge break-glass c_... --as ann --code 123456 --reason outage --ticket INC-7",
    "challenge cancel": "guard challenge cancel c_... --reason 'asked by mistake'",
    "challenge deny": "guard challenge deny c_... --as ann --code 123456 --reason 'not during the audit'",
    "challenge ls": "guard challenge ls --principal robot",
    "challenge review": "guard challenge review c_... --as ben --code 654321 --verdict 'right; in the runbook now'",
    "challenge show": "guard challenge show c_...",
    "challenge stats": "guard challenge stats --principal robot",
    "challenge watch": "guard challenge watch",
    "notify ls": "guard notify ls",
    "notify test": "guard notify test oncall",
    "intent ls": "guard intent ls",
    "intent publish": "guard intent publish envelope.json",
    "intent revoke": "guard intent revoke i_...",
    "intent sign": "guard intent sign --as releases --agent deployer --server k8s --tool deploy --argument replicas:=3 "
    "--for 30m --key-file releases.pem --to https://guard.example",
    "grant ls": "guard grant ls",
    "grant revoke": "guard grant revoke g_...",
    "drift calibrate": "guard drift calibrate",
    "drift rebuild": "guard drift rebuild robot",
    "drift score": "guard drift score --history normal.jsonl --sessions today.jsonl --out scores.jsonl",
    "drift show": "guard drift show robot",
    "why": "guard why c_...",
    "audit export": "guard audit export --format ocsf > records.jsonl",
    "audit tail": "guard audit tail -n 50 --follow",
    "audit verify": "guard audit verify",
}


def illustrate(command: click.Command, path: str) -> click.Command:
    """Let the verb at `path`, and every one below it, end its help with its example."""
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            illustrate(inner, f"{path} {name}")
    elif path in EXAMPLES:
        command.epilog = f"{_AS_IT_STANDS}Example: {EXAMPLES[path]}"
    return command
