"""Logs: structlog, readable on a terminal and JSON otherwise, with stable event names."""

from __future__ import annotations

import logging
import sys

import structlog


def configure(level: str) -> None:
    """Send logs to standard error, from ``level`` (a name of the logging module) upwards."""
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if terminal else [structlog.processors.format_exc_info]),
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def logger() -> structlog.typing.FilteringBoundLogger:
    """The daemon's logger."""
    bound: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return bound
