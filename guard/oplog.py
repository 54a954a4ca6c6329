"""The operational log: structured lines on stderr for the operator. What happened and why is in the ledger."""

from __future__ import annotations

import logging
import sys

import structlog


def to_stderr(level: str = "info") -> None:
    """Log from `level` upwards to stderr: lines for a terminal, JSON otherwise; libraries' own logs are silenced."""
    pretty = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if pretty else [structlog.processors.format_exc_info]),
            structlog.dev.ConsoleRenderer() if pretty else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    for name in ("uvicorn", "uvicorn.error", "httpx2"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
