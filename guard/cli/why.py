"""`guard why`: what happened to a call, challenge or grant, and why."""

from __future__ import annotations

import json
from pathlib import Path

import click

from guard.app import desk
from guard.audit.explain import explain
from guard.cli import options


@click.command()
@click.argument("id")
@options.as_json
@options.config
def why(id: str, as_json: bool, file: Path) -> None:
    """Say what happened to a call, challenge, grant or intent ID, and why.

    Who asked for what, which tags and findings decided, what was required and given by whom, what would
    have passed without a challenge, and how it ended.
    """
    with desk(file) as services:
        story = explain(services.config.state, id)
    click.echo(json.dumps(story.json()) if as_json else story.text())
