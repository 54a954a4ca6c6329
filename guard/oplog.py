"""The operational log: structured lines on stderr for the operator. What happened and why is in the ledger."""

from __future__ import annotations

import codecs
import logging
import sys
from typing import Final

import structlog
from structlog.typing import EventDict, WrappedLogger

# Looked up now: Python loads a codec's file at its first use, which may be the report that no file can be opened.
_ESCAPE: Final = codecs.getencoder("unicode_escape")


def printable(text: str) -> str:
    """Text in which everything that a terminal or a log reader might obey is escaped."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _ESCAPE(char)[0].decode() for char in text)


def _safe(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Names, paths and errors come from agents and tool servers: none of them draws on the operator's screen."""
    del logger, method
    return {name: printable(value) if isinstance(value, str) else value for name, value in event.items()}


def to_stderr(level: str = "info") -> None:
    """Log from `level` upwards to stderr: lines for a terminal, JSON otherwise; libraries' own logs are silenced."""
    pretty = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _safe,
            *([] if pretty else [structlog.processors.format_exc_info]),
            # Not the default for terminals, which prints local variables: they hold keys and arguments.
            structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
            if pretty
            else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    for name in ("uvicorn", "uvicorn.error", "httpx2"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
