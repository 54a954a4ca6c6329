"""Challenges and, through their state, grants: every change is one compare-and-swap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from types import MappingProxyType
from typing import Final, TypeAlias

from sqlalchemy import (
    ColumnElement,
    Integer,
    RowMapping,
    Select,
    String,
    and_,
    bindparam,
    exists,
    func,
    insert,
    or_,
    select,
    text,
    update,
)

from guard.errors import StoreUnavailableError
from guard.model import Challenge, State
from guard.people import Range
from guard.requirement import asks_people
from guard.store.codec import Row, decode, encode
from guard.store.database import Database
from guard.store.prepared import Found
from guard.store.schema import OPEN, OPEN_SQL, WAITING_SQL, challenge_groups, intents
from guard.store.schema import challenges as table
from guard.store.seal import Keyring
from guard.store.strict import RowError

_Values: TypeAlias = dict[str, str | int | float | bytes | None]

_COLUMNS: Final = tuple(field.name for field in fields(Row))
_IDS_AT_ONCE: Final = 500  # databases bound the parameters of one statement
_ATTEMPTS: Final = 16

# Built once: SQLAlchemy spends more time on building a statement than SQLite on running it.
ALL: Final[Select[tuple[object, ...]]] = select(*(table.c[column] for column in _COLUMNS), table.c.arguments)
_LISTED: Final[Select[tuple[object, ...]]] = select(table.c.seq, *(table.c[column] for column in _COLUMNS))
_BY_ID: Final = ALL.where(table.c.id == bindparam("wanted"))
_OPEN_BY_DIGEST: Final = ALL.where(table.c.digest == bindparam("wanted"), table.c.state.in_(OPEN))
_NEWEST_BY_DIGEST: Final = ALL.where(table.c.digest == bindparam("wanted")).order_by(table.c.seq.desc()).limit(1)
_COUNT_OPEN: Final = select(func.count()).where(
    table.c.state.in_(OPEN), table.c.principal == bindparam("wanted"), table.c.expires > bindparam("now")
)
_WAITING: Final = (
    select(table.c.asked, func.count())
    .where(text(WAITING_SQL), table.c.expires > bindparam("now"))
    .group_by(table.c.asked)
)
_DECIDED: Final = (
    ALL.where(table.c.principal == bindparam("wanted"), table.c.state != State.PENDING.value)
    .order_by(table.c.seq.desc())
    .limit(bindparam("limit"))
)
_DECIDED_AS: Final = (
    ALL.where(table.c.principal == bindparam("wanted"), table.c.state == bindparam("state"))
    .order_by(table.c.seq.desc())
    .limit(bindparam("limit"))
)
_STATES: Final = select(table.c.id, table.c.state, table.c.version).where(
    table.c.id.in_(bindparam("wanted", expanding=True))
)
_SWAP: Final = update(table).where(
    table.c.id == bindparam("old_id"),
    table.c.version == bindparam("old_version"),
    table.c.state == bindparam("old_state"),
    table.c.digest == bindparam("old_digest"),
)
_ASK: Final = insert(challenge_groups).from_select(
    ["member", "seq", "first"],
    select(bindparam("group", type_=String), table.c.seq, bindparam("leads", type_=Integer)).where(
        table.c.id == bindparam("wanted")
    ),
)
_SPEND: Final = (
    update(intents)
    .where(intents.c.id == bindparam("intent"), intents.c.used < bindparam("uses"), intents.c.revoked == 0)
    .values(used=intents.c.used + 1)
)


class SqlChallenges:
    """`guard.ports.Challenges` on SQL."""

    def __init__(self, database: Database, keyring: Keyring) -> None:
        """Take the database, and the keys that seal arguments."""
        self._database = database
        self._keyring = keyring
        self._insert = database.insert(table).on_conflict_do_nothing(
            index_elements=[table.c.digest], index_where=text(OPEN_SQL)
        )

    def open_or_join(self, challenge: Challenge) -> Challenge:
        """Insert, or return the open challenge that already exists for this digest.

        The partial unique index decides, so two processes never open two. An open challenge is joined even
        when it has run out of time: expiry is the caller's to judge, by its clock.

        Raises:
            StoreUnavailableError: the database cannot serve, or holds a challenge that cannot be read.
            ValueError: the challenge is not open.
        """
        if not challenge.state.open:
            raise ValueError(f"a challenge opens as pending, not {challenge.state}")
        row: _Values = {**_columns(challenge), "arguments": self._seal(challenge)}
        with self._database.write() as connection:
            # With PostgreSQL the other one may close between the two statements; then the place is free again.
            for _ in range(_ATTEMPTS):
                if connection.execute(self._insert, row).rowcount == 1:
                    connection.execute(_ASK, _asks(challenge))
                    return challenge
                found = connection.execute(_OPEN_BY_DIGEST, {"wanted": challenge.digest}).mappings().one_or_none()
                if found is not None:
                    return self.read(found)
        raise StoreUnavailableError(detail="challenges for one call open and close faster than they can be joined")

    def get(self, challenge_id: str) -> Challenge | None:
        """One challenge.

        Raises:
            StoreUnavailableError: the database cannot serve, or the challenge cannot be read.
        """
        return self._first(_BY_ID, challenge_id)

    def by_digest(self, digest: str) -> Challenge | None:
        """The challenge inserted last for a call digest, whatever its state.

        Raises:
            StoreUnavailableError: the database cannot serve, or the challenge cannot be read.
        """
        return self._first(_NEWEST_BY_DIGEST, digest)

    def find(
        self, *, states: frozenset[State] = frozenset(), principal: str = "", due: float | None = None
    ) -> Sequence[Challenge]:
        """Challenges by state and principal, in the order of insertion; with `due`, those that expire by then.

        Raises:
            StoreUnavailableError: the database cannot serve, or one of the challenges cannot be read.
        """
        wanted: list[ColumnElement[bool]] = []
        if states:
            wanted.append(table.c.state.in_(sorted(states)))
        if principal:
            wanted.append(table.c.principal == principal)
        if due is not None:
            wanted.append(table.c.expires <= due)
        with self._database.read() as connection:
            found = connection.execute(ALL.where(*wanted).order_by(table.c.seq)).mappings().all()
        return tuple(self.read(row) for row in found)

    def page(self, wanted: Range) -> Sequence[tuple[int, Challenge]]:
        """One page by place. Arguments stay sealed: `arguments` is "" and nothing may be rendered or bound from it.

        The places are found in the index alone; only the rows of the page itself are read.

        Raises:
            StoreUnavailableError: the database cannot serve, or one of the challenges cannot be read.
        """
        order = table.c.seq.desc() if wanted.newest_first else table.c.seq
        places = select(table.c.seq).where(*_within(wanted)).order_by(order).limit(wanted.limit)
        with self._database.read() as connection:
            chosen = connection.execute(places).scalars().all()
            found = connection.execute(_LISTED.where(table.c.seq.in_(chosen)).order_by(order)).mappings().all()
        return tuple((int(row["seq"]), _listed(row)) for row in found)

    def pulse(self, groups: frozenset[str] | None, now: float, named: frozenset[str] | None = None) -> tuple[int, str]:
        """How many wait, and a mark that differs when any open challenge of the groups (as in `Range`) changed.

        Raises:
            StoreUnavailableError: the database cannot serve.
        """
        living = Range(states=frozenset(OPEN), groups=groups, named=named, living=now)
        query = (
            select(table.c.state, func.count(), func.max(table.c.seq), func.sum(table.c.version))
            .where(*_within(living))
            .group_by(table.c.state)
            .order_by(table.c.state)
        )
        with self._database.read() as connection:
            rows = connection.execute(query).all()
            # What opened and ended between two looks left no other trace, and may have been shown meanwhile.
            last = connection.execute(select(func.max(table.c.seq))).scalar_one()
        waiting = next((int(count) for state, count, _, _ in rows if state == State.PENDING), 0)
        marks = (f"{state}:{count}:{newest}:{versions}" for state, count, newest, versions in rows)
        return waiting, ";".join([str(last or 0), *marks])

    def count_open(self, principal: str, now: float) -> int:
        """How many challenges of a principal are open, and not out of time at `now`.

        Raises:
            StoreUnavailableError: the database cannot serve.
        """
        with self._database.read() as connection:
            return int(connection.execute(_COUNT_OPEN, {"wanted": principal, "now": now}).scalar_one())

    def waiting(self, now: float) -> Mapping[str, int]:
        """How many challenges wait for people at `now`, by the group that is asked.

        Raises:
            StoreUnavailableError: the database cannot serve.
        """
        with self._database.read() as connection:
            return {asked: int(count) for asked, count in connection.execute(_WAITING, {"now": now})}

    def decided(self, principal: str, limit: int, *, state: State | None = None) -> Sequence[Challenge]:
        """The newest `limit` challenges of a principal in this state, or PENDING no longer, newest first.

        Raises:
            StoreUnavailableError: the database cannot serve, or one of the challenges cannot be read.
        """
        query, values = _DECIDED, {"wanted": principal, "limit": limit}
        if state is not None:
            query, values = _DECIDED_AS, {**values, "state": state.value}
        with self._database.read() as connection:
            found = connection.execute(query, values).mappings().all()
        return tuple(self.read(row) for row in found)

    def swap(
        self, old: Challenge, new: Challenge, *, durable: bool, spends: Mapping[str, int] = MappingProxyType({})
    ) -> bool:
        """One statement that changes the row only while it is still `old`; the version becomes `old.version + 1`.

        Arguments are dropped with the change that closes the challenge. Expiry is not looked at: the caller
        has judged it by its clock. One use of every intent in `spends` (id: uses it has) is counted in the same
        transaction, or nothing changes.

        Returns:
            Whether this was the one that changed it.

        Raises:
            StoreUnavailableError: the database cannot serve.
            ValueError: `new` is another challenge, or binds another call.
        """
        if (new.id, new.digest) != (old.id, old.digest):
            raise ValueError("a swap changes one challenge, and never what it binds")
        values: _Values = {
            **_columns(new),
            "version": old.version + 1,
            "old_id": old.id,
            "old_version": old.version,
            "old_state": old.state.value,
            "old_digest": old.digest,
        }
        if not new.state.open:
            values["arguments"] = None
        elif new.arguments != old.arguments:
            values["arguments"] = self._seal(new)
        counted = [(_SPEND, {"intent": intent, "uses": uses}) for intent, uses in spends.items()]
        return self._database.change([*counted, (_SWAP, values)], durable=durable)

    def states(self, ids: Sequence[str]) -> Mapping[str, tuple[State, int]]:
        """State and version of the given challenges; unknown ids are left out.

        Raises:
            StoreUnavailableError: the database cannot serve, or a state is unknown.
        """
        result: dict[str, tuple[State, int]] = {}
        with self._database.read() as connection:
            for start in range(0, len(ids), _IDS_AT_ONCE):
                wanted = {"wanted": list(ids[start : start + _IDS_AT_ONCE])}
                for name, state, version in connection.execute(_STATES, wanted):
                    result[name] = (_state(name, state), version)
        return result

    def _first(self, query: Select[tuple[object, ...]], wanted: str) -> Challenge | None:
        return next(map(self.read, self._database.rows(query, {"wanted": wanted})), None)

    def read(self, found: Found) -> Challenge:
        """Unseal and decode, or fail closed: a challenge that cannot be read has not vanished."""
        name = found["id"]
        sealed = found["arguments"]
        row = Row(**{column: found[column] for column in _COLUMNS})
        if _state(name, row.state).open != (sealed is not None):
            raise StoreUnavailableError(detail=f"challenge {name}: an open one has arguments, a closed one has none")
        try:
            arguments = "" if sealed is None else self._keyring.unseal(sealed, _place(name)).decode()
            return decode(row, arguments)
        except (RowError, UnicodeDecodeError) as error:
            raise StoreUnavailableError(detail=f"challenge {name} cannot be read: {error}") from error

    def _seal(self, challenge: Challenge) -> bytes:
        return self._keyring.seal(challenge.arguments.encode(), _place(challenge.id))


def _within(wanted: Range) -> list[ColumnElement[bool]]:
    """The conditions of a range."""
    conditions: list[ColumnElement[bool]] = []
    if wanted.states:
        conditions.append(table.c.state.in_(sorted(wanted.states)))
    if wanted.principal:
        conditions.append(table.c.principal == wanted.principal)
    if wanted.groups is not None:
        own = wanted.groups if wanted.named is None else wanted.named
        asks, member = challenge_groups.c.seq == table.c.seq, challenge_groups.c.member
        seen: ColumnElement[bool] = member.in_(sorted(own))
        if not wanted.groups <= own:
            seen = or_(seen, and_(challenge_groups.c.first == 1, member.in_(sorted(wanted.groups))))
        conditions.append(exists().where(asks, seen))
    if wanted.living is not None:
        conditions.append(or_(table.c.state.not_in(OPEN), table.c.expires > wanted.living))
    if wanted.after:
        conditions.append(table.c.seq < wanted.after if wanted.newest_first else table.c.seq > wanted.after)
    if wanted.text:
        named = (table.c.principal, table.c.server, table.c.name)
        conditions.append(
            or_(
                *(func.lower(column).contains(wanted.text.lower(), autoescape=True) for column in named),
                *(column.startswith(wanted.text, autoescape=True) for column in (table.c.id, table.c.digest)),
            )
        )
    return conditions


def _listed(row: RowMapping) -> Challenge:
    try:
        return decode(Row(**{column: row[column] for column in _COLUMNS}), "")
    except RowError as error:
        raise StoreUnavailableError(detail=f"challenge {row['id']} cannot be read: {error}") from error


def _asks(challenge: Challenge) -> list[_Values]:
    requirement = challenge.requirement
    return [
        {"group": group, "leads": int(group == requirement.approvers), "wanted": challenge.id}
        for group in sorted(requirement.groups)
    ]


def _columns(challenge: Challenge) -> _Values:
    row = encode(challenge)
    waits = challenge.state is State.PENDING and asks_people(challenge.requirement)
    asked = challenge.requirement.approvers if waits else ""
    return {column: getattr(row, column) for column in _COLUMNS} | {"asked": asked}


def _place(challenge_id: str) -> bytes:
    """Associated data of sealed arguments: this row and no other."""
    return challenge_id.encode()


def _state(name: str, value: str) -> State:
    try:
        return State(value)
    except ValueError as error:
        raise StoreUnavailableError(detail=f"challenge {name} has an unknown state {value!r}") from error
