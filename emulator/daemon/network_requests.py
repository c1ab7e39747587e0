"""What a client may ask of the networks below its addresses: bursts, groups, options of sends; and of segments."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from emulator.daemon.setting_requests import PendingSettings, Setting
from emulator.status import NtStatus, PeerViolation, Refused
from emulator.tdi.address_settings import OPTION_NAMES, MembershipSetting, OptionSetting
from emulator.tdi.groups import Membership, SendOptions
from emulator.tdi.irp import Irp, build_send_datagram
from emulator.tdi.structures import SocketAddress
from emulator.wire.codec import encode_response
from emulator.wire.window import PACKET_OVERHEAD_BYTES

if TYPE_CHECKING:
    from emulator.daemon.address_requests import AddressEnd
    from emulator.daemon.session import Session
    from emulator.tdi.effects import Complete

# What may stand behind the names of options; None where the option can be left to the host.
_OPTION_TYPES: dict[str, tuple[type, ...]] = {
    "ttl": (int, type(None)),
    "multicast_ttl": (int,),
    "multicast_interface": (str, type(None)),
    "multicast_loop": (bool,),
    "broadcast": (bool,),
    "type_of_service": (int,),
}


Answer: TypeAlias = Callable[[], tuple[Any, ...]]


class _Burst:
    """A burst under way: its datagrams that could not leave at once are requests of their own."""

    def __init__(self, end: AddressEnd, msgid: int, count: int, cost: int) -> None:
        self.end = end
        self.msgid = msgid
        self.irps: list[Irp] = []
        self._statuses = [int(NtStatus.SUCCESS)] * count
        self._cost = cost
        self._left = 0
        self._message = ""

    def submit(self, irp: Irp) -> None:
        """One more that stands for itself."""
        self.irps.append(irp)
        self._left += 1

    def ended(self, number: int, complete: Complete) -> None:
        """One of them is over."""
        self._statuses[number] = int(complete.status)
        if complete.status.is_error and not self._message:
            self._message = f"{complete.message} [{complete.rule}]" if complete.rule else complete.message
        self._left -= 1

    def answer_if_over(self) -> None:
        """Answer when the last has ended, and give all of their room back."""
        session = self.end.session
        if self._left or not session.settle(self.msgid, self):
            return
        self.end.inbound.settle_many(len(self._statuses), self._cost)
        sent = self._statuses.count(int(NtStatus.SUCCESS))
        all_sent = sent == len(self._statuses)
        statuses = b"" if all_sent else struct.pack(f"<{len(self._statuses)}I", *self._statuses)
        session.put(encode_response(self.msgid, sent, statuses, self._message[:1024]))

    def cancel(self) -> None:
        """Cancel what still waits."""
        for irp in self.irps:
            self.end.machine.datagrams.cancel(irp)


class _BurstPart:
    """The context of one request of a burst."""

    __slots__ = ("_burst", "_number")

    def __init__(self, burst: _Burst, number: int) -> None:
        self._burst = burst
        self._number = number

    def finish(self, complete: Complete) -> None:
        """It is over."""
        self._burst.ended(self._number, complete)
        self._burst.answer_if_over()


class NetworkRequests:
    """One session's requests about networks."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def close_all(self, reason: str) -> None:
        """Nothing here outlives the addresses."""

    def _find(self, number: int) -> AddressEnd:
        return self._session.address_requests.find(number)

    def address_send_burst(
        self, msgid: int, address: int, host: str, port: int, lengths: bytes, data: bytes
    ) -> tuple[Any, ...] | None:
        end = self._find(address)
        each = struct.unpack(f"<{len(lengths) // 4}I", lengths)
        if not each:
            raise Refused(NtStatus.INVALID_PARAMETER, "a burst has at least one datagram")
        if sum(each) != len(data):
            raise PeerViolation(f"address {address}: the lengths of a burst say {sum(each)} bytes, not {len(data)}")
        cost = len(data) + PACKET_OVERHEAD_BYTES * len(each)
        if not end.inbound.arrive_many(len(each), cost):
            raise PeerViolation(f"address {address}: a burst was sent although the window was used up")
        destination = SocketAddress(host, port)
        sent = end.machine.datagrams.send_burst(end.handle, destination, each, data)
        if sent == len(each):
            end.inbound.settle_many(len(each), cost)
            return sent, b"", ""
        self._send_singly(msgid, end, destination, each, data, sent)
        return None

    def _send_singly(
        self, msgid: int, end: AddressEnd, destination: SocketAddress, lengths: tuple[int, ...], data: bytes, first: int
    ) -> None:
        """Submit what could not leave at once, each for itself."""
        burst = _Burst(end, msgid, len(lengths), len(data) + PACKET_OVERHEAD_BYTES * len(lengths))
        self._session.pending[msgid] = burst
        at = sum(lengths[:first])
        for number in range(first, len(lengths)):
            length = lengths[number]
            part = _BurstPart(burst, number)
            burst.submit(build_send_datagram(end.handle, destination, data[at : at + length], length, part))
            at += length
        for irp in list(burst.irps):
            end.machine.datagrams.submit(irp)

    def address_join(self, msgid: int, address: int, group: str, interface: str) -> None:
        wanted = MembershipSetting(Membership(group, interface), joins=True)
        self._set(msgid, self._find(address), [wanted], lambda: ())

    def address_leave(self, msgid: int, address: int, group: str, interface: str) -> None:
        wanted = MembershipSetting(Membership(group, interface), joins=False)
        self._set(msgid, self._find(address), [wanted], lambda: ())

    def address_options(self, msgid: int, address: int, changes: str) -> None:
        end = self._find(address)
        wanted = _object(changes)
        _check_options(end.machine.datagrams.options(end.handle), wanted)
        settings = [OptionSetting(name, wanted[name]) for name in OPTION_NAMES if name in wanted]
        self._set(msgid, end, settings, lambda: (json.dumps(asdict(end.machine.datagrams.options(end.handle))),))

    def _set(
        self, msgid: int, end: AddressEnd, settings: Sequence[Setting], answer: Callable[[], tuple[Any, ...]]
    ) -> None:
        """Submit settings one after the other, as requests that filters see."""
        self._session.pending[msgid] = pending = PendingSettings(end, msgid, settings, answer)
        pending.go_on()

    def segment_change(self, msgid: int, segment: str, changes: str) -> tuple[Any, ...]:
        return (json.dumps(self._session.server.segments.change(segment, _object(changes))),)


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refused(NtStatus.INVALID_PARAMETER, "changes are a JSON object, such as {}")
    return found


def _check_options(options: SendOptions, changes: dict[str, Any]) -> None:
    """Refused for what no option can be, before any is set."""
    for name, value in changes.items():
        known = _OPTION_TYPES.get(name)
        if known is None:
            names = ", ".join(field.name for field in fields(SendOptions))
            raise Refused(NtStatus.INVALID_PARAMETER, f"there is no option {name[:64]!r}; there are: {names}")
        if type(value) not in known:
            raise Refused(NtStatus.INVALID_PARAMETER, f"{name} cannot be {str(value)[:64]!r}")
    replace(options, **changes)
