"""The checks of `guard doctor` about what a guard loads when it starts: certificates, databases, secrets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from guard.app import Desk
from guard.cli.checks import Check
from guard.errors import ConfigError
from guard.geo import locator
from guard.listeners import Listener


def start_checks(services: Desk) -> Iterator[Check]:
    """A problem for each thing without which no guard starts; each is loaded as the guard loads it."""
    for load in _loaded(services):
        try:
            load()
        except ConfigError as error:
            yield Check("problem", error.public, "the guard does not start until this is right")
    config = services.config
    if config.proxy.listen == config.console.listen:
        what = f"[proxy] and [console] both listen on {config.proxy.listen}"
        yield Check("problem", what, "give one of them another port; guard serve does not start until then")


def _loaded(services: Desk) -> Iterator[Callable[[], object]]:
    from guard.proxy.upstream import Upstreams  # noqa: PLC0415 - the fronts are heavy; `guard doctor --help` need not pay

    config = services.config
    yield from (partial(_certified, one) for one in (config.proxy, config.console) if one.tls_cert)
    yield partial(locator, config)
    yield lambda: services.openid
    yield partial(Upstreams, config.servers)


def _certified(listener: Listener) -> None:
    from starlette.applications import Starlette  # noqa: PLC0415 - as above

    from guard.proxy.listener import server  # noqa: PLC0415 - as above

    server(listener, Starlette())
