"""What it means that the demonstration failed."""

from __future__ import annotations


class DemoFailed(Exception):
    """It cannot go on; the text says why, and ``log`` is the end of what the process concerned has logged."""

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(message)
        self.log = log


def first_of(error: Exception) -> Exception:
    """The exception that a group began with."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error
