"""From a client's message to the function that serves it: who may use it, and whom a fault in it ends.

The functions are plain and wait for nothing. What one returns is the answer; None is given by those that answer later.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from emulator.daemon.lossy import LossySends
from emulator.daemon.request_owners import Handler, find_handler
from emulator.daemon.roles import REQUIRED, Role
from emulator.daemon.streams import refuse_descriptors
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.wire.codec import (
    BadRequest,
    Message,
    Notification,
    Request,
    Response,
    WireError,
    encode_error,
    encode_response,
)
from emulator.wire.schema import HELLO, Method

if TYPE_CHECKING:
    from emulator.daemon.machines import Machine
    from emulator.daemon.session import Session


class Dispatch:
    """What is done with the messages of one session's client."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lossy = LossySends()
        self._handlers: dict[Method, Handler] = {}  # those it has used: a table of all in each session would be large

    def lossy(self, frames: list[bytes]) -> None:
        """Carry out what came in DATAGRAM frames. Raises PeerViolation."""
        for request in self._lossy.take(frames):
            self.message(request)

    def message(self, message: Message) -> None:
        """Carry out one message. Raises PeerViolation, which ends the session."""
        match message:
            case Request(msgid, method, args):
                if self._lossy.is_new(msgid, method):
                    self._answer(msgid, method, args)
            case Notification(method, args):
                self._require_hello(method)
                # Nobody waits for an answer to whom a refusal could be told.
                with suppress(Refused):
                    self._call(method, args)
            case BadRequest(msgid, status, text):
                self._require_hello(None)
                self._session.put(encode_error(msgid, status, text))
            case Response():
                self._require_hello(None)
                self._session.questions.answered(message)

    def _answer(self, msgid: int, method: Method, args: tuple[Any, ...]) -> None:
        session = self._session
        self._require_hello(method)
        if msgid in session.pending:
            raise WireError(f"request {msgid} is still unanswered; its msgid cannot be used again yet")
        if len(session.pending) >= session.limits.outstanding_requests:
            text = f"more than {session.limits.outstanding_requests} requests are unanswered"
            session.put(encode_error(msgid, NtStatus.INSUFFICIENT_RESOURCES, text))
            return
        try:
            if not session.stream.passes_descriptors:
                refuse_descriptors(method, args)
            role = REQUIRED.get(method)
            if role is not None:
                self._require_role(role, method, args)
            result = self._call(method, (msgid, *args))
        except Refused as refusal:
            session.put(encode_error(msgid, refusal.status, refusal.text))
        else:
            if result is not None:
                session.put(encode_response(msgid, *result))

    def _require_role(self, role: Role, method: Method, args: tuple[Any, ...]) -> None:
        """Refuse what this client may not be: of the machine it names, or of the daemon."""
        session = self._session
        if role is not Role.ADMIN:
            session.require_role_on(role, session.machine_requests.find(args[0]))
        elif not session.server.access.allows(session.identity, role):
            text = f"{session.identity} may not use {method.name}; [access] admin in the configuration names who may"
            raise Refused(NtStatus.ACCESS_DENIED, text)

    def _call(self, method: Method, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        session = self._session
        session.acting_on = None
        try:
            return (self._handlers.get(method) or self._find(method))(*args)
        except (Refused, PeerViolation):
            raise
        except Exception as error:
            # A fault in a core ends the machine it was about, and only that.
            machine: Machine | None = session.acting_on
            if machine is None:
                raise
            machine.fail(error)
            raise Refused(NtStatus.DEVICE_NOT_READY, f"{machine} failed; the daemon's log says why") from None

    def _require_hello(self, method: Method | None) -> None:
        if self._session.client == "" and method is not HELLO:
            raise WireError("the first message must be the request 'hello'")

    def _find(self, method: Method) -> Handler:
        found = self._handlers[method] = find_handler(self._session, method)
        return found
