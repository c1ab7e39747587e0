"""What a client may ask as the bus guest of a machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator.daemon.guest_pages import PROCESSORS
from emulator.status import NtStatus, Refused
from emulator.wire.codec import encode_response

if TYPE_CHECKING:
    from emulator.daemon.machines import Machine
    from emulator.daemon.session import Session


class BusRequests:
    """The machines whose bus guest a session is, and the requests it makes as such."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._machines: dict[int, Machine] = {}  # by their number in this session

    def _find(self, machine: int) -> Machine:
        found = self._session.machine_requests.find(machine)
        if machine not in self._machines:
            text = f"this session is not the bus guest of {found}; send bus.attach first"
            raise Refused(NtStatus.INVALID_DEVICE_STATE, text)
        return found

    def close_all(self, reason: str) -> None:
        """The session ended: its machines start over. Before their memory is given back, which rings may lie in."""
        machines, self._machines = self._machines, {}
        for machine in machines.values():
            with machine.contained():
                machine.bus.detach(reason)

    def bus_attach(self, msgid: int, machine: int) -> tuple[Any, ...]:
        found = self._session.machine_requests.find(machine)
        found.bus.attach(self._session, machine)
        self._machines[machine] = found
        return (PROCESSORS,)

    def bus_detach(self, msgid: int, machine: int) -> tuple[Any, ...]:
        found = self._find(machine)
        del self._machines[machine]
        found.bus.detach("the bus guest detached")
        return ()

    def bus_post(self, msgid: int, machine: int, connection_id: int, payload: bytes) -> tuple[Any, ...]:
        return (int(self._find(machine).bus.post(connection_id, payload)),)

    def bus_signal(self, msgid: int, machine: int, connection_id: int, flag: int) -> tuple[Any, ...]:
        return (int(self._find(machine).bus.signal(connection_id, flag)),)

    def bus_message_taken(self, machine: int, vp: int, sint: int) -> None:
        # After a detach it is late, and no mistake.
        if machine in self._machines:
            self._find(machine).bus.message_taken(vp, sint)

    def bus_doorbell(self, msgid: int, machine: int, channel_id: int) -> None:
        descriptor = self._find(machine).bus.guest_end(channel_id).hand_over()
        self._session.put_with_descriptor(encode_response(msgid, 1), descriptor, then_close=True)

    def bus_event_flags_page(self, msgid: int, machine: int, vp: int, address: int | None) -> tuple[Any, ...]:
        guest = self._find(machine).bus.bus_guest
        assert guest is not None, "this session is the bus guest"
        guest.pages.set_event_flags_page(vp, address)
        return ()
