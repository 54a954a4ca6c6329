"""Reading and replacing a configuration file that belongs to somebody else's program: whole, or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from guard.clients.known import Place
from guard.errors import ConfigError

_OWN: Final = 0o600


@dataclass(frozen=True, slots=True)
class Content:
    """What stood in a file when it was read. `file` is the real one, behind links."""

    file: Path
    raw: bytes
    text: str
    mode: int


def content(place: Place) -> Content:
    """Read a file of an agent.

    A link in a person's own settings is followed, as dotfiles are often kept elsewhere; one in a project is not, for
    projects come from others.

    Raises:
        ConfigError: it cannot be read, is too large, no text, a link of a project, or somebody else's.
    """
    file = place.file
    try:
        if file.is_symlink() and place.project:
            _refuse(file, f"is a link; name the file it leads to: {os.path.realpath(file)}")
        real = Path(os.path.realpath(file, strict=True))
        descriptor = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as opened:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                _refuse(file, "is not a regular file")
            if found.st_size > place.limit:
                _refuse(file, f"has {found.st_size} bytes, more than the {place.limit} that are read")
            raw = opened.read(place.limit + 1)
    except OSError as error:
        message = f"cannot be read: {error.strerror or error}"
        raise ConfigError(message, file=file) from error
    if found.st_uid != os.getuid():
        _refuse(file, "belongs to another user; run this as its owner")
    if found.st_nlink > 1:
        _refuse(file, "has a second name (hard link), which would keep the old content; remove one of them")
    try:
        return Content(real, raw, raw.decode("utf-8"), stat.S_IMODE(found.st_mode))
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        message = "this is not UTF-8; save the file as UTF-8"
        raise ConfigError(message, file=file, line=line, column=1) from error


def replace(old: Content, text: str | bytes) -> None:
    """Put a new text in the place of what was read: at once, with the same permissions, and only if it is still there.

    Raises:
        ConfigError: somebody changed it meanwhile, or it cannot be written; nothing was changed.
    """
    writable(old)
    with _failing(old.file):
        if old.file.read_bytes() != old.raw:
            _refuse(old.file, "was changed by another program just now; quit the agent, then do this again")
        write(old.file, text, mode=old.mode)


def writable(old: Content) -> None:
    """See that a file may be replaced.

    Raises:
        ConfigError: it may not, or its folder may not be written.
    """
    if not (old.mode & stat.S_IWUSR and os.access(old.file, os.W_OK)):  # the mark holds for root as well
        _refuse(old.file, f"may not be written; chmod u+w {old.file}")
    if not os.access(old.file.parent, os.W_OK):
        _refuse(old.file, f"cannot be replaced; chmod u+w {old.file.parent}")


def write(file: Path, text: str | bytes, *, mode: int = _OWN) -> None:
    """Write a file so that a crash leaves the old one or the new one, never a part.

    Raises:
        ConfigError: it cannot be written.
    """
    temporary = file.with_name(f".{file.name}.{secrets.token_hex(6)}.tmp")
    with _failing(file):
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _OWN)
        try:
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(text.encode() if isinstance(text, str) else text)
                opened.flush()
                os.fchmod(descriptor, mode)
                os.fsync(descriptor)
            temporary.replace(file)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync(file.parent)


def folder(path: Path) -> Path:
    """A folder that only its owner may enter, made if it is not there.

    Raises:
        ConfigError: it cannot be made.
    """
    with _failing(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def repository(file: Path) -> Path | None:
    """The root of the git work tree that a file is in; None if it is in none."""
    return next((parent for parent in file.absolute().parents if (parent / ".git").exists()), None)


def _sync(path: Path) -> None:
    """Make the new name itself last."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot
            raise
    finally:
        os.close(descriptor)


@contextmanager
def _failing(file: Path) -> Iterator[None]:
    """Turn what the system says about a file into a sentence that names it."""
    try:
        yield
    except OSError as error:
        message = f"cannot be written: {error.strerror or error}"
        raise ConfigError(message, file=file) from error


def _refuse(file: Path, message: str) -> NoReturn:
    raise ConfigError(message, file=file)
