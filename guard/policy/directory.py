"""The folder of policy files: read whole, swapped whole, and the last good set kept when anything is wrong.

What is served never has fewer tags than the last good set by accident: a broken file, a vanished file, an
emptied folder, a link that leads outside, a file that is being written are mistakes, and the set in force
stays in force. To serve without a file on purpose, remove it and restart.
"""

from __future__ import annotations

import errno
import gc
import hashlib
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias

from guard.errors import PolicyError
from guard.policy.classify import PolicySet
from guard.policy.document import Policy
from guard.policy.facts import Location
from guard.policy.reading import read
from guard.policy.tree import MAX_BYTES, Mistake, Place
from guard.policy.vocabulary import listing

MAX_FILES: Final = 1000
TESTS: Final = "tests"
"""The folder beside the policies that holds their tests (`guard.lab.cases`); nothing in it is a policy."""
QUIET: Final = 0.5

_NOTES: Final = frozenset({".md", ".txt"})
_LEFTOVERS: Final = ("~", ".bak", ".orig", ".rej", ".swp", ".tmp")

Signature: TypeAlias = tuple[tuple[str, int, int, int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """What a folder held at one moment: file names and bytes, in order of names.

    `mistakes` are about the folder itself (a link that leads outside, a name that is no policy's),
    `leftovers` are files that editors left and that are not read.
    """

    files: tuple[tuple[str, bytes], ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    leftovers: tuple[Mistake, ...] = ()

    @property
    def revision(self) -> str:
        """Hex SHA-256 over names and contents."""
        digest = hashlib.sha256(b"guard policies v1\0")
        for name, raw in self.files:
            digest.update(b"%d:%s%d:" % (len(os.fsencode(name)), os.fsencode(name), len(raw)))
            digest.update(raw)
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refresh:
    """What a refresh found. `changed`: a new set is in force. `mistakes`: the new files were refused."""

    changed: bool = False
    mistakes: tuple[Mistake, ...] = ()


def _is_policy(name: str) -> bool:
    return name.endswith(".yaml") and not name.startswith(".")


def _is_leftover(name: str) -> bool:
    return name.casefold().endswith(_LEFTOVERS)


def _is_note(name: str) -> bool:
    return name.startswith(".") or Path(name.casefold()).suffix in _NOTES


def _misnamed(name: str) -> str:
    """What to do about a file that is neither a policy nor known to be something else."""
    if name.casefold().endswith((".yml", ".yaml", ".json")):
        return f"policy files are called NAME.yaml; rename this to {Path(name).stem}.yaml"
    return "this is not a policy file (NAME.yaml); move it elsewhere"


def _read_file(path: Path, inside: Path) -> bytes:
    """The bytes of one regular file whose real place is within `inside`.

    Raises:
        OSError: it cannot be read, is not a regular file, or leads outside.
    """
    if not Path(os.path.realpath(path, strict=True)).is_relative_to(inside):  # `resolve` raises RuntimeError at a loop
        raise OSError(errno.EXDEV, "the link leads out of the folder")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise OSError(errno.EINVAL, "this is not a regular file")
        raw = file.read(MAX_BYTES + 1)
        after = os.fstat(descriptor)
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
        raise OSError(errno.EBUSY, "the file is being written")
    return raw


def survey(folder: Path) -> Folder:
    """Read everything in a folder of policies. Files that cannot be read are mistakes, never skipped."""
    files: list[tuple[str, bytes]] = []
    mistakes: list[Mistake] = []
    leftovers: list[Mistake] = []
    try:
        inside = folder.resolve(strict=True)
        names = sorted(os.listdir(inside))  # noqa: PTH208 - names are all that is wanted
    except OSError as error:
        said = (
            f"the folder of policies cannot be read: {error.strerror}; create it, or correct `policies` in guard.toml"
        )
        return Folder(mistakes=(Mistake(Place(str(folder), 1, 1), said),))
    for name in names[: MAX_FILES + 1]:
        place, path = Place(str(folder / name), 1, 1), inside / name
        if path.is_dir():
            if not name.startswith(".") and name != TESTS:
                mistakes.append(Mistake(place, "folders within the folder of policies are not read; move the files up"))
            continue
        if _is_policy(name):
            try:
                files.append((name, _read_file(path, inside)))
            except OSError as error:
                mistakes.append(Mistake(place, f"cannot be read: {error.strerror or error}"))
        elif _is_leftover(name):
            leftovers.append(Mistake(place, "an editor or tool left this; it is not read"))
        elif not _is_note(name):
            mistakes.append(Mistake(place, _misnamed(name)))
    if len(names) > MAX_FILES:
        mistakes.append(Mistake(Place(str(folder), 1, 1), f"more than {MAX_FILES} files"))
    return Folder(files=tuple(files), mistakes=tuple(mistakes), leftovers=tuple(leftovers))


def understand(folder: Folder, base: Path) -> tuple[tuple[Policy, ...], tuple[Mistake, ...]]:
    """The policies that could be read, and every mistake with its path below `base`."""
    policies: list[Policy] = []
    mistakes = list(folder.mistakes)
    owners: dict[str, Policy] = {}
    for name, raw in folder.files:
        policy, found = read(raw, name)
        mistakes.extend(_below(base, one) for one in found)
        if policy is None:
            continue
        if (other := owners.get(policy.server)) is not None:
            said = f'server "{policy.server}" is already described by {other.file}; write one file a server'
            mistakes.append(_below(base, Mistake(policy.place, said)))
            continue
        owners[policy.server] = policy
        policies.append(policy)
    return tuple(policies), tuple(mistakes)


def _below(base: Path, mistake: Mistake) -> Mistake:
    place = mistake.place
    return Mistake(Place(str(base / place.file), place.line, place.column), mistake.message)


def _signature(folder: Path) -> Signature:
    """What would change if any file did; empty when the folder cannot be listed."""
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.stat()) for entry in entries if not entry.name.startswith(".")]
    except OSError:
        return ()
    return tuple(
        sorted((name, at.st_mtime_ns, at.st_ctime_ns, at.st_size, at.st_ino) for name, at in found),
    )


def _refusal(mistakes: Sequence[Mistake]) -> PolicyError:
    first, *others = mistakes
    place = first.place
    message = "\n".join([first.message, *(str(other) for other in others)])
    return PolicyError(message, file=place.file, line=place.line, column=place.column)


@contextmanager
def _uncollected(*, lasting: bool) -> Iterator[None]:
    """Keep the cycle collector from what is read: it would stop traffic for 0.3 s at 10 000 tools, and find nothing.

    What is read has no cycles and is freed without it. `lasting` takes it out of all later collections, too.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if lasting:
            gc.freeze()
        if enabled:
            gc.enable()


class PolicyDirectory:
    """The policies in force. Reading is synchronous and takes milliseconds; call it from a worker thread."""

    def __init__(
        self,
        folder: Path,
        servers: Collection[str] = (),
        *,
        environments: Mapping[str, str] | None = None,
        locate: Callable[[str], Location] | None = None,
        lasting: bool = False,
        quiet: float = QUIET,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`servers` are the configured names; files may change for `quiet` seconds before they are read again.

        `environments` holds the environment of each server that has one, and under "" that of the deployment;
        `locate` finds out where an address is. `lasting` is for a process that serves: everything that is alive after
        a change is taken out of later collections.
        """
        self._folder = folder
        self._servers = frozenset(servers)
        self._environments = MappingProxyType(dict(environments or {}))
        self._quiet = quiet
        self._monotonic = monotonic
        self._locate, self._lasting = locate, lasting
        self._current = PolicySet(settings=self._environments, locate=locate)
        self._files: frozenset[str] = frozenset()
        self._judged: Signature = ()
        self._seen: Signature = ()
        self._since = 0.0
        self._mistakes: tuple[Mistake, ...] = ()

    @property
    def current(self) -> PolicySet:
        """The last good set. Before the first `load` it is empty: everything needs a step-up."""
        return self._current

    @property
    def mistakes(self) -> tuple[Mistake, ...]:
        """Why the files on disk are not the set in force; empty when they are."""
        return self._mistakes

    @property
    def undescribed(self) -> tuple[str, ...]:
        """Configured servers that no policy in force describes."""
        return tuple(sorted(self._servers - self._current.policies.keys()))

    def load(self) -> PolicySet:
        """Read the folder at start-up.

        Raises:
            PolicyError: any mistake; every one on a line of its own.
        """
        signature = _signature(self._folder)
        with _uncollected(lasting=self._lasting):
            folder, policies, mistakes = self._read()
        if _signature(self._folder) != signature:
            mistakes = (*mistakes, self._about("files change while they are read; start again"))
        self._seen = self._judged = signature
        self._adopt(folder, policies, mistakes)
        if mistakes:
            raise _refusal(mistakes)
        return self._current

    def refresh(self) -> Refresh:
        """Look whether files changed (a few system calls when not) and take them when all are right.

        A change is read once nothing moved for `quiet` seconds. Mistakes are returned once a change.
        """
        signature, now = _signature(self._folder), self._monotonic()
        if signature != self._seen:
            self._seen, self._since = signature, now
        if signature == self._judged or now - self._since < self._quiet:
            return Refresh()
        with _uncollected(lasting=self._lasting):
            folder, policies, mistakes = self._read()
        if _signature(self._folder) != signature:
            return Refresh()
        before = self._current.revision
        self._judged = signature
        self._adopt(folder, policies, mistakes)
        return Refresh(changed=self._current.revision != before, mistakes=mistakes)

    def _read(self) -> tuple[Folder, tuple[Policy, ...], tuple[Mistake, ...]]:
        """What is on disk, and what is wrong with it."""
        folder = survey(self._folder)
        policies, mistakes = understand(folder, self._folder)
        gone = sorted(self._files - {name for name, _ in folder.files})
        if gone and not mistakes:
            said = f"{listing(gone)} vanished; the tags in it stay in force until the guard is restarted"
            mistakes = (self._about(said),)
        lost = sorted(self._current.policies.keys() - {policy.server for policy in policies})
        if lost and not mistakes:
            said = f"no file is about the server {listing(lost)} any more; its tags stay in force until a restart"
            mistakes = (self._about(said),)
        return folder, policies, mistakes

    def _about(self, message: str) -> Mistake:
        return Mistake(Place(str(self._folder), 1, 1), message)

    def _adopt(self, folder: Folder, policies: Sequence[Policy], mistakes: tuple[Mistake, ...]) -> None:
        """Put a set without mistakes in force, whole."""
        self._mistakes = mistakes
        if mistakes:
            return
        self._files = frozenset(name for name, _ in folder.files)
        if folder.revision != self._current.revision:
            by_server = MappingProxyType({policy.server: policy for policy in policies})
            self._current = PolicySet(by_server, folder.revision, self._environments, self._locate)
