"""What a client waits for: calls, posts and their ends, and the errors they end with. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from clients.inbox import Inbox
from emulator.status import NtStatus
from emulator.wire.schema import Method


class RequestFailed(Exception):
    """The daemon refused a request, or it ended with an error status. ``status`` says which, the text why."""

    def __init__(self, status: NtStatus, message: str, information: int = 0) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message
        self.information = information


class ConnectionLost(Exception):
    """The connection to the daemon is gone; the text says why, as far as is known."""


class Call:
    """One request and its end.

    ``build`` makes something of a good result at the moment it is read, so that what follows it in the same bytes finds
    it there; it is then ``built``. ``undo`` gets a good result that comes after the call was abandoned.
    """

    __slots__ = (
        "abandoned",
        "args",
        "build",
        "built",
        "cost",
        "descriptor",
        "done",
        "error",
        "lane",
        "method",
        "msgid",
        "packets",
        "post",
        "result",
        "undo",
        "waiter",
    )

    def __init__(self, method: Method, args: tuple[object, ...]) -> None:
        self.method = method
        self.args = args
        self.msgid = -1
        self.cost = 0
        self.packets = 1
        self.done = False
        self.abandoned = False
        self.result: tuple[Any, ...] = ()
        self.error: Exception | None = None
        self.descriptor: int | None = None
        self.build: Callable[[tuple[Any, ...]], Any] | None = None
        self.built: Any = None
        self.undo: Callable[[tuple[Any, ...]], None] | None = None
        self.lane: Lane | None = None
        self.post: Post | None = None
        self.waiter: Any = None

    def outcome(self) -> tuple[Any, ...]:
        """The result of a call that is done; raises its error."""
        if self.error is not None:
            raise self.error
        return self.result


class Post:
    """Many packets without completion, sent as runs as the window allows. Done when all are in, or one failed."""

    def __init__(self, payloads: list[bytes]) -> None:
        self.payloads = payloads
        self.started = 0
        self.unanswered = 0
        self.error: Exception | None = None
        self.lane: Lane | None = None
        self.waiter: Any = None

    @property
    def done(self) -> bool:
        """Whether nothing of it is under way any more."""
        return self.error is not None or (self.started == len(self.payloads) and not self.unanswered)

    def outcome(self) -> tuple[Any, ...]:
        """How many packets were sent; raises what went wrong."""
        if self.error is not None:
            raise self.error
        return (len(self.payloads),)


class Burst(Post):
    """Many datagrams to one destination, sent as the window allows. Done when each has ended.

    ``statuses`` is how, and ``message`` why, of the first that failed.
    """

    def __init__(self, datagrams: list[bytes], destination: tuple[str, int]) -> None:
        super().__init__(datagrams)
        self.destination = destination
        self.statuses: list[int] = []
        self.message = ""


class Lane:
    """What of one channel or address waits for its window to open, in order."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.waiting: deque[Call | Post] = deque()


@runtime_checkable
class LocalCall(Protocol):
    """A call that no message carries: a packet of a direct channel."""

    waiter: Any

    @property
    def done(self) -> bool:
        """Whether it has come to its end."""

    def outcome(self) -> tuple[Any, ...]:
        """The result of a call that is done; raises its error."""

    def abandon(self) -> None:
        """Nobody waits for it any more."""
