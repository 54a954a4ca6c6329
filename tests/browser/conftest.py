"""One deployment with a running guard, and one Chromium, for all tests of a module."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import pytest
from playwright.sync_api import Browser

from tests.guards import Answer, Serving
from tests.visitors import Client, Person, chromium, invite
from tests.world import World

POLICY = """\
server: {server}
owner: journal-team
default: {sensitivity: internal}
tools:
  note: {sensitivity: sensitive, require: consent}
  wipe: {sensitivity: critical, effects: [destroy]}
  slow: {sensitivity: critical, require: two_people}
  say: {sensitivity: sensitive, require: consent}
  variables: {sensitivity: sensitive, require: consent, grants: {uses: 2, minutes: 30}}
approvers: approvers
"""


@dataclass
class House:
    """A running guard, its agent, and people with browsers."""

    world: World
    guard: Serving
    browser: Browser
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def base(self) -> str:
        return f"http://localhost:{self.guard.config.console.port}"

    def pause(
        self, tool: str = "wipe", arguments: Mapping[str, object] | None = None
    ) -> tuple[str, Callable[[], Answer]]:
        """A call nobody made before, paused; its challenge, and how to make it again."""
        wanted = {"number": next(self.numbers), **(arguments or {})}

        def again() -> Answer:
            return self.guard.call(tool, wanted)

        paused = again()
        assert paused.challenge, paused.text
        return paused.challenge, again

    def visitor(self, *groups: str, name: str = "", size: tuple[int, int] = (1100, 900), dark: bool = False) -> Person:
        """Somebody new, enrolled and logged in."""
        name = name or f"person{next(self.numbers)}"
        link = invite(self.world, name, *groups)
        person = Person(self.browser, self.base, size=size, dark=dark)
        person.name = name
        person.enrol(link)
        person.log_in()
        return person

    def client(self, person: Person | None = None) -> Client:
        """A program; with the login of a person, if given."""
        return Client(self.guard, person.cookies(), person.csrf()) if person else Client(self.guard)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with World(tmp_path_factory.mktemp("house"), more="[approval]\ncool_down = 600\n") as world, chromium() as browser:
        world.write_everywhere(POLICY)
        yield House(world, world.serve(), browser)


@pytest.fixture(scope="module")
def ann(house: House) -> Iterator[Person]:
    """An approver at the console; whatever a page complained about fails the module."""
    person = house.visitor()
    yield person
    person.close()
    assert person.errors == []
