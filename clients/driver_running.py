"""Running the state callbacks of driver channels, and knowing inside one that it is one."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from clients.calls import RequestFailed
from clients.driver import CallbackDue
from clients.protocol import ClientProtocol
from clients.verifier import function_site
from emulator.status import NtStatus, Refused
from emulator.vmbus.life_cycle import Callback

# Which state callback this code runs in, of which channel.
running_callback: ContextVar[CallbackDue | None] = ContextVar("running_callback", default=None)


def status_of(due: CallbackDue, returned: Any) -> NtStatus:
    """What a callback's return value means. Raises VerifierReport for page lists that Closed left (4.2)."""
    state = due.state
    if due.kind == Callback.CLOSED and state.gpadls:
        left, verifier = sorted(state.gpadls), state.verifier
        state.gpadls.clear()
        what = f"Closed returned and left {len(left)} GPADL, the first 0x{left[0]:X}; it has to delete them all"
        verifier.report("4.2", what, verifier.place_of(("gpadl", left[0])), function_site(state.callbacks.closed))
    return NtStatus.SUCCESS if returned is None else NtStatus(returned)


def run_callback(protocol: ClientProtocol, due: CallbackDue) -> None:
    """Run a state callback where nothing can be awaited, and answer it. What it raises comes out, once answered."""
    token = running_callback.set(due)
    status = NtStatus.UNSUCCESSFUL
    try:
        status = status_of(due, due.call())
    except (Refused, RequestFailed) as error:
        status = error.status
    finally:
        running_callback.reset(token)
        protocol.answer_callback(due, status)
