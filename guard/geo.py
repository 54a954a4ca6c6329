"""Where an address is: country and autonomous system, by MaxMind database files that the owner provides."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from guard.config import Config
from guard.errors import ConfigError
from guard.policy.facts import Location
from guard.policy.networks import peer

if TYPE_CHECKING:
    from maxminddb import Reader

_REMEMBERED: Final = 4096


def locator(config: Config) -> Callable[[str], Location] | None:
    """What finds the location of an address, or None when no database is configured.

    Raises:
        ConfigError: the extra `geo` is not installed, or a file is no database.
    """
    if config.geo is None:
        return None
    country, system = _reader(config.geo.country, config), _reader(config.geo.asn, config)

    @lru_cache(maxsize=_REMEMBERED)
    def locate(address: str) -> Location:
        code = _member(_found(country, address), "country", "iso_code")
        number = _member(_found(system, address), "autonomous_system_number")
        return Location(
            country=code if isinstance(code, str) and code else None,
            asn=number if type(number) is int else None,
        )

    return locate


def _reader(file: Path | None, config: Config) -> Reader | None:
    if file is None:
        return None
    try:
        import maxminddb  # noqa: PLC0415 - an extra, for those who have such files
    except ImportError:
        raise ConfigError("[geo] needs the extra: pip install 'mcp-step-up-guard[geo]'", file=config.file) from None
    try:
        return maxminddb.open_database(file)
    except (OSError, ValueError, maxminddb.InvalidDatabaseError) as error:
        raise ConfigError(f"{file} cannot be read as a MaxMind database: {error}", file=config.file) from error


def _found(reader: Reader | None, address: str) -> object:
    """What a database holds about an address; nothing about what is no address, or where the file is damaged."""
    parsed = peer(address)
    if reader is None or parsed is None:
        return None
    from maxminddb import InvalidDatabaseError  # noqa: PLC0415 - as above; it is loaded when there is a reader

    try:
        return reader.get(parsed)
    except (ValueError, InvalidDatabaseError):
        return None


def _member(value: object, *path: str) -> object:
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value
