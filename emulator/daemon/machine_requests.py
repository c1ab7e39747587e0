"""What a client may ask about the session itself, about machines and about their memory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from emulator.choice import plain
from emulator.daemon.inspection import describe_details, describe_waiting
from emulator.daemon.paging import PagingNotice
from emulator.memory import AddressOutsideMemory
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.vmbus.profile import ChannelProfile
from emulator.wire.codec import FrameLimits, WireError, encode_notification, encode_response
from emulator.wire.runs import pack_pfns, unpack_pfns
from emulator.wire.schema import MACHINE_PROFILE, PROTOCOL_VERSION

if TYPE_CHECKING:
    from emulator.daemon.machines import Machine
    from emulator.daemon.session import Session

MOST_CHUNK_BYTES = 256 * 1024
# One page of inspection entries; with entries of about 1 KiB it stays below the largest document.
ENTRIES_PER_PAGE = 200


class MachineRequests:
    """One session's machines, and the requests that name them."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._machines: list[Machine] = []
        self._notices: dict[Machine, PagingNotice] = {}

    def find(self, number: int) -> Machine:
        """The machine of that number in this session."""
        if not 1 <= number <= len(self._machines):
            raise Refused(NtStatus.INVALID_HANDLE, f"this session has no machine {number}; attach to one first")
        machine = self._machines[number - 1]
        machine.require_alive()
        self._session.acting_on = machine
        return machine

    def attached(self) -> list[Machine]:
        """Every machine this session acts on."""
        return self._machines

    def close_all(self, reason: str) -> None:
        """Give back the memory this session holds."""
        for machine in self._machines:
            machine.attached_sessions.discard(self._session)
            with machine.contained():
                machine.take_memory_back(self._session)

    # ---- the session itself

    def hello(self, msgid: int, lowest: int, highest: int, client: str) -> tuple[Any, ...]:
        session = self._session
        if session.client:
            raise WireError("a second hello: a session says it once")
        if not lowest <= PROTOCOL_VERSION <= highest:
            raise WireError(f"this daemon speaks protocol version {PROTOCOL_VERSION}, the client {lowest} to {highest}")
        session.client = client or "?"
        limits = FrameLimits()
        return (
            PROTOCOL_VERSION,
            session.server.version,
            session.number,
            limits.frame_bytes,
            limits.elements,
            session.limits.outstanding_requests,
        )

    def ping(self, msgid: int) -> tuple[Any, ...]:
        return ()

    def cancel(self, msgid: int) -> None:
        pending = self._session.pending.get(msgid)
        # One that has just been answered is not there any more; that is no mistake of the client's.
        if pending is not None:
            pending.cancel()

    def daemon_inspect(self, msgid: int, what: str, machine: str | None, after: int) -> tuple[Any, ...]:
        server = self._session.server
        who = self._session.identity
        machines = [server.find_machine(machine, who)] if machine is not None else server.machines_for(who)
        if what == "daemon":
            entries = [server.describe()]
        elif what == "machines":
            entries = [each.describe() for each in machines]
        elif what == "channels":
            entries = [entry for each in machines for entry in each.describe_channels()]
        elif what == "details":
            entries = [entry for each in machines for entry in describe_details(each)]
        elif what == "waiting":
            entries = [entry for each in machines for entry in describe_waiting(each)]
        elif what == "segments":
            entries = server.segments_for(who)
        else:
            known = "daemon, machines, channels, details, waiting or segments"
            text = f"there is nothing called {what!r} to inspect; try {known}"
            raise Refused(NtStatus.INVALID_PARAMETER, text)
        page = entries[after : after + ENTRIES_PER_PAGE]
        return json.dumps(page), after + len(page) < len(entries)

    # ---- machines and memory

    def machine_attach(self, msgid: int, name: str, map_memory: bool) -> tuple[Any, ...] | None:
        session = self._session
        machine = session.server.find_machine(name, session.identity)
        if machine in self._machines:
            number = self._machines.index(machine) + 1
        else:
            machine.quotas.check_sessions()
            self._machines.append(machine)
            machine.attached_sessions.add(session)
            number = len(self._machines)
        if machine.profile != ChannelProfile():
            document = json.dumps({"kmcl": plain(machine.profile.kmcl), "channel": plain(machine.profile.limits)})
            session.put(encode_notification(MACHINE_PROFILE, number, document))
        self._notice(machine).mark(machine.paged_out.pfns(), out=True)
        result = (number, machine.memory.byte_count, int(map_memory))
        if not map_memory:
            return result
        session.put_with_descriptor(encode_response(msgid, *result), machine.file.descriptor)
        return None

    def memory_allocate(self, msgid: int, machine: int, pages: int) -> tuple[Any, ...]:
        found = self.find(machine)
        if pages * 8 > 65536 * 8:
            raise Refused(NtStatus.INVALID_PARAMETER, f"at most 65,536 pages can be had in one call, not {pages}")
        found.quotas.check_memory(self._session, pages)
        return (pack_pfns(found.pages.allocate(self._session, pages)),)

    def memory_free(self, msgid: int, machine: int, pfns: bytes) -> tuple[Any, ...]:
        found = self.find(machine)
        pages = unpack_pfns(pfns)
        found.pages.free(self._session, pages)
        found.discard(pages)
        return ()

    def _notice(self, machine: Machine) -> PagingNotice:
        if machine not in self._notices:
            self._notices[machine] = PagingNotice(self._session, machine, self._machines.index(machine) + 1)
        return self._notices[machine]

    def paged(self, machine: Machine, pfns: tuple[int, ...], *, out: bool) -> None:
        """Pages of a machine this session is attached to went out, or came in: its client is told."""
        self._notice(machine).mark(pfns, out=out)

    def memory_page(self, msgid: int, machine: int, pfns: bytes, out: bool) -> tuple[Any, ...]:
        found = self.find(machine)
        pages = unpack_pfns(pfns)
        try:
            found.memory.check_pages(pages)
        except AddressOutsideMemory as error:
            raise Refused(NtStatus.INVALID_PARAMETER, str(error)) from None
        found.paged_out.mark(pages, out=out)
        for session in found.attached_sessions:
            session.machine_requests.paged(found, pages, out=out)
        return ()

    def memory_read(self, msgid: int, machine: int, address: int, length: int) -> tuple[Any, ...]:
        found = self.find(machine)
        if length > MOST_CHUNK_BYTES:
            raise Refused(
                NtStatus.INVALID_PARAMETER, f"at most {MOST_CHUNK_BYTES} bytes can be read in one call, not {length}"
            )
        try:
            return (found.memory.read(address, length),)
        except AddressOutsideMemory as error:
            raise Refused(NtStatus.INVALID_PARAMETER, str(error)) from None

    def memory_write(self, msgid: int, machine: int, address: int, data: bytes) -> tuple[Any, ...]:
        found = self.find(machine)
        try:
            found.memory.write(address, data)
        except AddressOutsideMemory as error:
            raise Refused(NtStatus.INVALID_PARAMETER, str(error)) from None
        return ()


def stale_or_unknown(kind: str, number: int, given_out: int) -> None:
    """Nothing has this number: that is late, and no mistake, if something had it once; else the client made it up."""
    if not 1 <= number <= given_out:
        raise PeerViolation(f"there is no {kind} {number}: this session was never given it")
