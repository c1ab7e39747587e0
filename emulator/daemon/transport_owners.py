"""What a machine's transport knows of those who use it: each gets what comes of its own requests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from emulator.tdi.constants import ReceiveFlags
from emulator.tdi.effects import Ask, Complete, Effect, SendOutside, Tell
from emulator.tdi.segment import SegmentPort
from emulator.tdi.structures import SocketAddress


class Owner(Protocol):
    """Whoever opened an address: it gets the datagrams for it."""

    def deliver(self, source: SocketAddress, flags: ReceiveFlags, data: bytes) -> None:
        """One datagram arrived."""

    def ask(self, ask: Ask) -> list[Effect]:
        """Its event handler is to be called; the effects of that, where it cannot be."""

    def tell(self, tell: Tell) -> None:
        """Its event handler is to be called, and nothing comes back."""


class ConnectionOwner(Protocol):
    """Whoever opened a connection endpoint."""

    def deadline_changed(self) -> None:
        """Something of its, done on another machine, has a nearer deadline."""


class Outside(Protocol):
    """What lies beyond the machine: the segments it is on, and their gateways."""

    def send(self, wanted: SendOutside) -> None:
        """A gateway has a datagram for a program outside."""

    def sent_on(self, ports: Iterable[SegmentPort]) -> None:
        """Something was done on these attachments: their segments may have a new deadline."""


class Waiter(Protocol):
    """The context of a request: it gets the completion."""

    def finish(self, complete: Complete) -> None:
        """The request is over."""
