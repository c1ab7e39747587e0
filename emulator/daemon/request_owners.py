"""The parts of a session that serve the families of methods: which serves a method, and in what order they end."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from emulator.wire.method import Method

if TYPE_CHECKING:
    from emulator.daemon.session import Session

Handler = Callable[..., tuple[Any, ...] | None]


def find_handler(session: Session, method: Method) -> Handler:
    """The function for a method: of the part that has one of its name."""
    owners = (
        session.machine_requests,
        session.channel_requests,
        session.address_requests,
        session.connection_requests,
        session.receive_requests,
        session.file_requests,
        session.filter_requests,
        session.network_requests,
        session.bus_requests,
        session.driver_requests,
        session.operation_requests,
    )
    name = method.name.replace(".", "_")
    found: Handler = next(getattr(owner, name) for owner in owners if hasattr(owner, name))
    return found


def close_everything(session: Session, reason: str) -> list[Exception]:
    """Close what the client holds, filters and drivers before what they stand on; what went wrong with any of it."""
    owners = (
        session.filter_requests,
        session.driver_requests,
        session.bus_requests,
        session.channel_requests,
        session.connection_requests,
        session.address_requests,
        session.file_requests,
        session.questions,
        session.receive_requests,
        session.machine_requests,
    )
    problems = []
    for owner in owners:
        try:
            owner.close_all(reason)
        except Exception as error:  # noqa: BLE001 -- the others still have to be closed, and the daemon goes on
            problems.append(error)
    return problems
