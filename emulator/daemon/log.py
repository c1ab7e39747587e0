"""Logs: structlog, readable on a terminal and JSON otherwise, with stable event names and a level that can change."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

LEVELS = ("debug", "info", "warning", "error")


class _Threshold:
    """What is logged at least; a processor, so that it can change while loggers are in use."""

    def __init__(self) -> None:
        self.level = "info"

    def __call__(self, _logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
        if logging.getLevelNamesMapping()[method.upper()] < logging.getLevelNamesMapping()[self.level.upper()]:
            raise structlog.DropEvent
        return event


_threshold = _Threshold()


def configure(level: str) -> None:
    """Send logs to standard error, from ``level`` (one of LEVELS) upwards."""
    set_level(level)
    terminal = sys.stderr.isatty()
    structlog.configure(
        processors=[
            _threshold,
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if terminal else [structlog.processors.format_exc_info]),
            structlog.dev.ConsoleRenderer() if terminal else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def set_level(level: str) -> str:
    """From now on log from this level upwards; the level before."""
    before, _threshold.level = _threshold.level, level
    return before


def logger() -> FilteringBoundLogger:
    """The daemon's logger."""
    bound: FilteringBoundLogger = structlog.get_logger()
    return bound
