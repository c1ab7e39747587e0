"""A machine's side of what clients' event handlers answer and keep; ``handler_requests`` is a session's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import trio

from emulator.status import NtStatus, Refused
from emulator.tdi.effects import Ask, Effect
from emulator.tdi.handlers import NOT_ACCEPTED, Answer
from emulator.tdi.transport import Transport

if TYPE_CHECKING:
    from emulator.daemon.address_requests import AddressEnd


class HandlerAnswers:
    """What comes back from handlers, to one machine's transport.

    ``perform`` does what an answer brings; ``deadline_changed`` is called when a call began or ended.
    """

    def __init__(
        self, transport: Transport, perform: Callable[[Iterable[Effect]], None], deadline_changed: Callable[[], None]
    ) -> None:
        self._transport = transport
        self._perform = perform
        self.called = deadline_changed
        """A handler of this machine's is being called."""

    def answered(self, token: int, answer: Answer) -> None:
        """A client's handler has returned."""
        self._perform(self._transport.handler_answered(token, answer, trio.current_time()))
        self.called()

    def call(self, end: AddressEnd, ask: Ask) -> None:
        """Call a handler that filters were asked about. One that was taken away meanwhile is not called (R46, T10)."""
        try:
            handler = self._transport.handlers_of(ask.handle).get(ask.handler.event)
        except Refused:
            handler = None
        if handler is ask.handler:
            self._perform(end.session.questions.ask_handler(end, ask))
        else:
            self.refuse(ask.token)

    def refuse(self, token: int) -> None:
        """A handler is not called, and has not accepted."""
        self.answered(token, NOT_ACCEPTED)

    def not_called(self, token: int) -> list[Effect]:
        """A handler could not be called: it has not accepted. What that brings is the caller's to perform."""
        return self._transport.handler_answered(token, NOT_ACCEPTED, trio.current_time())

    def return_chained(self, descriptor: int, may: Callable[[object], bool]) -> None:
        """Take back a chained datagram from an owner that ``may`` return it; raises Refused (R39)."""
        if not may(self._transport.loan_owner(descriptor)):
            text = f"the chained datagram {descriptor} is another client's"
            raise Refused(NtStatus.INVALID_PARAMETER, text, rule="R39")
        self._transport.return_chained([descriptor])
        self._perform(self._transport.connections.endpoints.events.loans_returned(trio.current_time()))

    def forget_loans(self, gone: Callable[[object], bool]) -> None:
        """Owners are gone, and what they kept of chained datagrams with them."""
        for owner in self._transport.loans.owners():
            if gone(owner):
                self._transport.loans.forget(owner)
