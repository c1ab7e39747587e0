"""What passes through a machine's filters: requests and opens down to the transport, datagrams and events up."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from emulator.status import NtStatus, Refused
from emulator.tdi.constants import FileKind
from emulator.tdi.filter_view import FilterView, address_bytes, change, view_of
from emulator.tdi.filters import Verdict
from emulator.tdi.irp import Irp
from emulator.wire.codec import encode_error, encode_response

if TYPE_CHECKING:
    from emulator.daemon.datagrams import Datagrams
    from emulator.daemon.filters import Filters
    from emulator.daemon.session import Session
    from emulator.tdi.structures import SocketAddress


class OnTheWay(Protocol):
    """What every kind of passing has."""

    serial: int
    is_event: bool
    view: FilterView

    def change(self, verdict: Verdict) -> None:
        """Take over what a filter changed."""

    def reached(self) -> None:
        """It has passed every filter."""

    def ended(self, verdict: Verdict) -> None:
        """A filter ended it."""


class IrpPassing:
    """A request on its way down."""

    is_event = False

    def __init__(self, serial: int, datagrams: Datagrams, irp: Irp, view: FilterView) -> None:
        self.serial = serial
        self.irp = irp
        self.view = view
        self._datagrams = datagrams
        self._length = view.length

    def change(self, verdict: Verdict) -> None:
        """The next filter, and the transport, get what this one made of it."""
        change(self.irp, verdict)
        self.view = view_of(self.irp, FileKind(self.view.kind), None)._replace(local=self.view.local)

    def reached(self) -> None:
        """The transport's turn."""
        self._datagrams.filters.let_go(self)
        self._datagrams.submit_below(self.irp)

    def ended(self, verdict: Verdict) -> None:
        """Complete it with the filter's status."""
        self._datagrams.filters.let_go(self)
        information = 0 if verdict.status.is_error else verdict.information
        text = "" if verdict.status.is_success else "a filter ended it"
        self._datagrams.complete(self.irp.complete(verdict.status, information, text))

    @property
    def sent_as(self) -> int | None:
        """How many bytes its client gave, if a filter has made them more or fewer."""
        return None if self._length == self.view.length else self._length


class CreatePassing:
    """An open on its way down; ``proceed`` opens, and says what to answer, which handle it is and where."""

    is_event = False

    def __init__(self, serial: int, session: Session, msgid: int, view: FilterView, opening: Opening) -> None:
        self.serial = serial
        self.view = view
        self._session = session
        self._msgid = msgid
        self._opening = opening

    def change(self, verdict: Verdict) -> None:
        """What is opened cannot be changed, only refused."""

    def reached(self) -> None:
        """Open it, if its client still wants it."""
        if self._session.settle(self._msgid, self):
            self._answer(self._opening.proceed)
        else:
            self._gone()

    def ended(self, verdict: Verdict) -> None:
        """A filter cannot open it itself: whatever it says, it is refused."""
        if self._session.settle(self._msgid, self):
            status = verdict.status if verdict.status.is_error else NtStatus.ACCESS_DENIED
            self._refuse(Refused(status, "a filter refused the open"))
        else:
            self._gone()

    def _gone(self) -> None:
        """Its client has gone meanwhile."""
        text = "its client has gone"
        self._opening.filters.tell_watchers(self, (int(NtStatus.CANCELLED), 0, text), 0, b"")

    def cancel(self) -> None:
        """Its client does not want it any more."""
        self._opening.filters.withdraw(self)
        if self._session.settle(self._msgid, self):
            self._refuse(Refused(NtStatus.CANCELLED, "cancelled while a filter had it"))

    def _answer(self, proceed: Callable[[], Opened]) -> None:
        try:
            self._opening.filters.machine.require_alive()
            result, handle, local = proceed()
        except Refused as refusal:
            self._refuse(refusal)
            return
        self._session.put(encode_response(self._msgid, *result))
        self._opening.filters.tell_watchers(self, (0, 0, ""), handle, address_bytes(local))

    def _refuse(self, refusal: Refused) -> None:
        result = self._opening.refused(refusal)
        if result is not None:
            self._session.put(encode_response(self._msgid, *result))
        else:
            self._session.put(encode_error(self._msgid, refusal.status, refusal.text))
        self._opening.filters.tell_watchers(self, (int(refusal.status), 0, refusal.text), 0, b"")


Opened = tuple[tuple[Any, ...], int, "SocketAddress | None"]


class Opening:
    """How to open what was asked for, and how a refusal is answered: None for an error."""

    def __init__(
        self,
        filters: Filters,
        proceed: Callable[[], Opened],
        refused: Callable[[Refused], tuple[Any, ...] | None] = lambda _refusal: None,
    ) -> None:
        self.filters = filters
        self.proceed = proceed
        self.refused = refused


class EventPassing:
    """A datagram or a call of an event handler on its way up to a client."""

    is_event = True

    def __init__(self, serial: int, view: FilterView, up: Callable[[bytes], None], refuse: Callable[[], None]) -> None:
        self.serial = serial
        self.view = view
        self._up = up
        self._refuse = refuse

    def change(self, verdict: Verdict) -> None:
        """Other data."""
        if verdict.data is not None:
            self.view = self.view._replace(data=verdict.data)

    def reached(self) -> None:
        """Its client gets it."""
        self._up(self.view.data)

    def ended(self, verdict: Verdict) -> None:
        """Its client never hears of it."""
        self._refuse()
