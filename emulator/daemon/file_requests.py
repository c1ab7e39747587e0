"""Files and requests as bytes: what a client may ask that builds its requests itself, as a driver does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from emulator.daemon.filter_passings import Opened, Opening
from emulator.daemon.machine_requests import stale_or_unknown
from emulator.daemon.obligations import PatientIrp
from emulator.status import NtStatus, Refused
from emulator.tdi.constants import FileKind, MajorFunction
from emulator.tdi.create import FILE_KINDS, OpenAddress
from emulator.tdi.filter_view import create_view
from emulator.tdi.guest_irp import GuestIrp
from emulator.tdi.irp import Irp
from emulator.tdi.layout import Arch
from emulator.tdi.parameters import DeviceControl
from emulator.tdi.raw import RawCreate, RawParameters, raw_irp
from emulator.wire.codec import encode_response
from emulator.wire.runs import parse_mdl_chain_untrusted

if TYPE_CHECKING:
    from emulator.daemon.address_requests import AddressEnd
    from emulator.daemon.machines import Machine
    from emulator.daemon.session import Session
    from emulator.tdi.effects import Complete


class OpenFile(NamedTuple):
    """A file of this session's, and its address end if it is an address object."""

    machine: Machine
    handle: int
    end: AddressEnd | None


class PendingIrp(PatientIrp):
    """A request as bytes under way: the context of its IRP. ``place`` is where it lies whole in guest memory."""

    def __init__(self, session: Session, msgid: int, machine: Machine, place: GuestIrp | None = None) -> None:
        self._session = session
        self._msgid = msgid
        self._machine = machine
        self._place = place
        self._raw: RawParameters | DeviceControl | None = None
        self.irp: Irp | None = None

    def submits(self, irp: Irp) -> None:
        """The request whose context this is, about to be submitted."""
        self.irp = irp
        if isinstance(irp.parameters, (RawParameters, DeviceControl)):
            self._raw = irp.parameters

    def finish(self, complete: Complete) -> None:
        """The request is over: write its end where it lies, and answer it."""
        message = f"{complete.message} [{complete.rule}]" if complete.rule else complete.message
        status, information, irp = complete.status, complete.information, complete.irp
        result: tuple[object, ...] = int(status), information, message
        output = b""
        if isinstance(self._raw, DeviceControl):
            output = self._raw.completed(irp)
        elif self._raw is not None:
            self._raw.completed(irp)
        if self._place is not None:
            try:
                self._place.completed(irp, output)
            except Refused as refusal:
                result = int(refusal.status), 0, refusal.text
        else:
            result = *result, output
        if self._session.settle(self._msgid, self):
            self._session.put(encode_response(self._msgid, *result))

    def cancel(self) -> None:
        if self.irp is not None:
            self._machine.datagrams.cancel(self.irp)


class FileRequests:
    """One session's files that are no address objects, and the requests as bytes for any file of it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._files: dict[int, OpenFile] = {}

    def close_all(self, reason: str) -> None:
        """The session ended: close its files."""
        for file in self._files.values():
            if file.machine.is_alive:
                with file.machine.contained():
                    file.machine.datagrams.close(file.handle)
        self._files.clear()

    def _find(self, number: int) -> OpenFile:
        addresses = self._session.address_requests
        file = self._files.get(number)
        if file is None and (end := addresses.find_end(number)) is not None:
            file = OpenFile(end.machine, end.handle, end)
        if file is None and (endpoint := self._session.connection_requests.find_end(number)) is not None:
            file = OpenFile(endpoint.machine, endpoint.handle, None)
        if file is None:
            stale_or_unknown("file", number, number if addresses.was_given(number) else 0)
            raise Refused(NtStatus.FILE_CLOSED, f"file {number} has been closed")
        self._session.acting_on = file.machine
        file.machine.require_alive()
        return file

    def _handle_of(self, number: int) -> int:
        """The transport's handle of a file that a request names; INVALID_HANDLE for none of this session's (C1)."""
        end = self._session.address_requests.find_end(number)
        file = self._files.get(number)
        if end is None and file is None:
            raise Refused(NtStatus.INVALID_HANDLE, f"{number} is no open file of this session", rule="C1")
        return end.handle if end is not None else file.handle if file is not None else 0

    # ---- opening

    def file_create(
        self,
        msgid: int,
        machine: int,
        network: str,
        pointer_bytes: int,
        location: bytes,
        attributes: bytes,
        packets: int,
        byte_count: int,
    ) -> tuple[Any, ...] | None:
        found = self._session.machine_requests.find(machine)
        arch, filters = _arch(pointer_bytes), found.datagrams.filters

        def opened() -> Opened:
            return self._create(found, network, arch, asked, attributes, (packets, byte_count))

        try:
            asked = RawCreate(location, arch)
            request = found.datagrams.what_to_create(network, asked.attributes(attributes), arch)
            local = request.local if isinstance(request, OpenAddress) else None
            view = create_view(FILE_KINDS[type(request)], local, asked.share)
            return filters.create(self._session, msgid, network, view, Opening(filters, opened, _refused_create))
        except Refused as refusal:
            return _refused_create(refusal)

    def _create(
        self, machine: Machine, network: str, arch: Arch, asked: RawCreate, attributes: bytes, grant: tuple[int, int]
    ) -> Opened:
        addresses = self._session.address_requests
        if len(self._files) >= self._session.limits.addresses_per_session:
            text = f"this session already has {len(self._files)} files open; close one first"
            raise Refused(NtStatus.INSUFFICIENT_RESOURCES, text, rule="CR13")
        end = addresses.new_end(machine, grant)
        outcome = machine.datagrams.create(network, asked.attributes(attributes), asked.share, end, arch)
        kind = machine.datagrams.kind_of(outcome.handle)
        if kind is FileKind.ADDRESS and outcome.local is not None:
            number = addresses.add(end, outcome.handle)
            result: tuple[Any, ...] = 0, 0, "", number, int(kind), *outcome.local, *addresses.send_grant
            return result, outcome.handle, outcome.local
        number = addresses.new_number()
        self._files[number] = OpenFile(machine, outcome.handle, None)
        return (0, 0, "", number, int(kind), "", 0, 0, 0), outcome.handle, None

    # ---- requests

    def irp_submit(
        self,
        msgid: int,
        file: int,
        pointer_bytes: int,
        location: bytes,
        buffer: bytes,
        buffer_at: int,
        mdl: bytes,
    ) -> tuple[Any, ...] | None:
        found, arch = self._find(file), _arch(pointer_bytes)
        pending = PendingIrp(self._session, msgid, found.machine)
        try:
            chain = parse_mdl_chain_untrusted(mdl)
            memory = found.machine.memory
            irp = raw_irp(
                found.handle,
                location,
                arch,
                memory,
                mdl=chain,
                system_buffer=buffer,
                base=buffer_at,
                context=pending,
                handle_of=self._handle_of,
            )
        except Refused as refusal:
            return int(refusal.status), 0, refusal.text, b""
        self._submit(msgid, file, found, irp, pending)
        return None

    def irp_submit_at(self, msgid: int, file: int, pointer_bytes: int, irp: int) -> tuple[Any, ...] | None:
        found, arch = self._find(file), _arch(pointer_bytes)
        try:
            place = GuestIrp(found.machine.memory, irp, arch)
            place.check_stack(found.machine.datagrams.filters.stack_size(found.handle))
            pending = PendingIrp(self._session, msgid, found.machine, place)
            request = place.irp(found.handle, pending, self._handle_of)
        except Refused as refusal:
            return int(refusal.status), 0, refusal.text
        self._submit(msgid, file, found, request, pending)
        return None

    def _submit(self, msgid: int, number: int, file: OpenFile, irp: Irp, pending: PendingIrp) -> None:
        pending.submits(irp)
        self._session.pending[msgid] = pending
        datagrams = file.machine.datagrams
        try:
            if irp.major == MajorFunction.CLEANUP:
                datagrams.cleanup(file.handle, lambda: pending.finish(irp.complete(NtStatus.SUCCESS)))
            elif irp.major == MajorFunction.CLOSE:
                self._close(number, file)
                pending.finish(irp.complete(NtStatus.SUCCESS))
            else:
                datagrams.submit(irp)
        except Refused as refusal:
            pending.finish(irp.refuse(refusal))

    def _close(self, number: int, file: OpenFile) -> None:
        if file.end is not None:
            self._session.address_requests.forget(number)
            file.end.close()
        else:
            if not self._session.connection_requests.forget(number):
                del self._files[number]
            file.machine.datagrams.close(file.handle)


def _refused_create(refusal: Refused) -> tuple[Any, ...]:
    return int(refusal.status), 0, refusal.text, 0, 0, "", 0, 0, 0


def _arch(pointer_bytes: int) -> Arch:
    try:
        return Arch(pointer_bytes)
    except ValueError:
        text = f"a pointer has 8 bytes (x64) or 4 (x86), not {pointer_bytes}"
        raise Refused(NtStatus.INVALID_PARAMETER, text) from None
