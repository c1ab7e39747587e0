"""What a machine's transport has for sending besides single requests: groups, the options of sends, bursts.

``Transport`` is one of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from emulator.status import Misuse, NtStatus, Refused
from emulator.tdi.address import AddressObject
from emulator.tdi.bursts import BurstWay, burst_way
from emulator.tdi.effects import Effect, JoinForRequest
from emulator.tdi.object_ids import group_answered
from emulator.tdi.receive_side import ReceiveSide
from emulator.tdi.segment_port import SegmentPort

if TYPE_CHECKING:
    from emulator.tdi.groups import SendOptions
    from emulator.tdi.structures import SocketAddress


class SendSide(ReceiveSide):
    """Groups, options and bursts of a transport's address objects."""

    # Groups and options.

    def join(self, handle: int, group: str, interface: str = "0.0.0.0") -> list[Effect]:
        """Make an address object a member of a multicast group on one interface; raises Refused (O7).

        ``interface`` is the machine's own address on it, or the wildcard of either family for the first. What a
        JoinGroup among the effects cannot get from the host is taken back with ``leave``.
        """
        address = self._address(handle)
        return self._devices[address.network].join(address, group, interface)

    def leave(self, handle: int, group: str, interface: str = "0.0.0.0") -> list[Effect]:
        """End one join (O8); raises Refused. All that are left end with the cleanup."""
        address = self._address(handle)
        return self._devices[address.network].leave(address, group, interface)

    def group_answered(self, asked: JoinForRequest, status: NtStatus, message: str = "") -> list[Effect]:
        """The answer to a JoinForRequest: the host has let the socket join, or the status its error stands for."""
        return group_answered(self, asked, status, message)

    def options(self, handle: int) -> SendOptions:
        """How an address object's datagrams leave."""
        return self._address(handle).options

    def set_options(self, handle: int, options: SendOptions) -> None:
        """From the next datagram it sends on; raises Refused. Change one with ``dataclasses.replace``."""
        address = self._address(handle)
        self._devices[address.network].set_options(address, options)

    def _address(self, handle: int) -> AddressObject:
        file = self._files.get(handle)
        if file is None:
            raise Refused(NtStatus.INVALID_HANDLE, f"handle {handle} is not open on machine {self.machine}")
        if not isinstance(file, AddressObject) or file.closing:
            text = f"handle {handle} is no open address object, so it has no groups and no options"
            raise Refused(NtStatus.INVALID_PARAMETER, text, rule="O3")
        return file

    # Bursts.

    def burst_way(self, handle: int, destination: SocketAddress, lengths: Sequence[int]) -> BurstWay | None:
        """How many sends to one destination can leave in one go; None: submit them one by one.

        With a socket's ``key``, tell ``count_burst`` how much of it left; on a segment call ``carry_burst``. Whatever
        has to see every request on its own must make this None.
        """
        file = self._files.get(handle)
        if not isinstance(file, AddressObject):
            return None
        return burst_way(self._devices[file.network], file, destination, lengths)

    def count_burst(self, handle: int, datagrams: int, byte_count: int) -> None:
        """So much of a burst has left through its socket."""
        self._devices[self._address(handle).network].count_sent(datagrams, byte_count)

    def carry_burst(self, handle: int, way: BurstWay, datagrams: Sequence[bytes], now: float) -> list[Effect]:
        """Send a whole burst on a segment."""
        address = self._address(handle)
        device = self._devices[address.network]
        if not isinstance(device, SegmentPort):
            raise Misuse(f"a burst on {address.network} leaves through a socket")
        return device.carry_burst(address, way, datagrams, now)
