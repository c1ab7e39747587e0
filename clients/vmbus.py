"""Machines, channels and packets: the trio face."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import trio

from clients import address_calls, connection_calls, file_calls, filter_calls, remote_memory, requests, taking
from clients.bus import BusGuest, attach_bus
from clients.driver import ChannelCallbacks
from clients.files import File
from clients.filters import Filter
from clients.inbox import EndState, OfferState
from clients.memory import Buffer, MachineMemory
from clients.packet import Packet
from clients.protocol import RequestFailed
from clients.requests import Completion, Identity
from clients.tdi import Address
from clients.tdi_connections import TdiConnection
from clients.unix import Attached
from clients.views import ChannelView, EndView, OfferedChannelView
from emulator.memory import GpaRange, Mdl
from emulator.tdi.builders import Location
from emulator.vmbus.profile import Side
from emulator.vmbus.send_rules import SendFlags
from emulator.wire.schema import NETWORK_QUERY

if TYPE_CHECKING:
    from clients.connection import Connection
    from clients.driver_channel import DriverChannel

# Of so many collects that need not wait, one lets other tasks run: with a peer that never stops none would wait.
READY_TURNS = 16


class Machine:
    """One simulated machine, as this client acts on it: as guest, as host, as TDI client."""

    def __init__(self, connection: Connection, name: str, attached: Attached) -> None:
        self.name = name
        self.memory: MachineMemory = attached.memory
        self._connection = connection
        self.number = attached.number

    @property
    def connection(self) -> Connection:
        """The connection it was had from."""
        return self._connection

    # ---- memory

    async def reserve(self, byte_count: int) -> None:
        """Make sure that a buffer of so many bytes can be allocated."""
        missing = self.memory.missing_pages(byte_count)
        while missing:
            pages = min(missing, 65536)
            self.memory.add_pages(await self._connection.allocate_pages(self.number, pages))
            missing -= pages

    async def allocate(self, byte_count: int) -> Buffer:
        """A buffer of guest memory, however large; ``memory.allocate`` is the same from what is reserved already."""
        await self.reserve(byte_count)
        return self.memory.allocate(byte_count)

    async def read_memory(self, rng: GpaRange) -> bytes:
        """A copy of a range of guest memory: through the mapping, or by message without one."""
        if self.memory.is_mapped:
            return requests.gather_mapped(self.memory, (rng,))
        return await remote_memory.read_ranges(self._connection, self.number, (rng,))

    async def write_memory(self, rng: GpaRange, data: bytes) -> None:
        """Copy ``data`` to the beginning of a range of guest memory."""
        if self.memory.is_mapped:
            self.memory.mapped.write_range(rng, data)
            return
        await remote_memory.write_range(self._connection, self.number, rng, data)

    async def page_out(self, memory: GpaRange | Mdl | Buffer) -> None:
        """Mark its pages as paged out: external data there has to be waited for (R8). The bytes stay as they are."""
        await self._connection.finish(requests.page(self._connection.protocol, self.number, memory, out=True))

    async def page_in(self, memory: GpaRange | Mdl | Buffer) -> None:
        """Undo ``page_out``: packets that waited for these pages come again."""
        await self._connection.finish(requests.page(self._connection.protocol, self.number, memory, out=False))

    # ---- channels

    def allocate_channel(
        self, side: Side, *, callbacks: ChannelCallbacks | None = None, mode: str = "hosted"
    ) -> DriverChannel:
        """A channel with KMCL's life cycle and callbacks, of a guest or of a host. Windows: VmbChannelAllocate.

        It is disabled: initialise it through its ``setup``, then enable it. ``mode`` as in ``offer_channel``.
        """
        from clients.driver_channel import DriverChannel  # it is made of this module

        return DriverChannel(self._connection, self, side, callbacks or ChannelCallbacks(), mode)

    async def offer_channel(
        self, interface: Identity, instance: Identity | None = None, *, pipe: bool = False, mode: str = "hosted"
    ) -> OfferedChannel:
        """Offer a channel, as its host. Without an instance id the daemon makes one.

        With ``mode="direct"`` this process works the rings itself, and the daemon carries the doorbells at most.
        """
        direct = requests.direct_memory(mode, self.memory)
        protocol = self._connection.protocol
        call = requests.offer_channel(protocol, self.number, interface, instance, pipe=pipe, direct=direct)
        await self._connection.finish(call)
        return OfferedChannel(self._connection, self, call.built)

    async def open_channel(
        self,
        interface: Identity,
        instance: Identity | None = None,
        *,
        wait: bool = True,
        send_pages: int = 0,
        receive_pages: int = 0,
        mode: str = "hosted",
    ) -> Channel:
        """Open an offered channel, as its guest; waits for the offer unless told not to.

        ``send_pages`` and ``receive_pages`` are data pages of the two rings; 0 takes the daemon's default.
        """
        pages = send_pages, receive_pages
        direct = requests.direct_memory(mode, self.memory)
        protocol = self._connection.protocol
        call = requests.open_channel(
            protocol, self.number, interface, instance, wait=wait, ring_pages=pages, direct=direct
        )
        await self._connection.finish(call)
        return Channel(self._connection, self, *requests.opened_state(call))

    async def attach_bus(self) -> BusGuest:
        """Take the whole guest side of the machine's bus, for a driver stack of one's own. Raises RequestFailed."""
        return await attach_bus(self._connection, self)

    # ---- datagrams

    async def open_address(
        self, local: tuple[str, int] = ("0.0.0.0", 0), *, network: str = "udp", share: bool = False
    ) -> Address:
        """Open a transport address: on real UDP sockets, or on a segment by its name. Port 0 takes a free one."""
        call = address_calls.open_address(self._connection.protocol, self.number, network, local, share)
        await self._connection.finish(call)
        return Address(self._connection, *call.built)

    async def open_connection(self, *, network: str = "tcp") -> TdiConnection:
        """Open a connection endpoint: for real TCP, or on a segment by its name. Associate it with an address next."""
        call = connection_calls.open_connection(self._connection.protocol, self.number, network)
        await self._connection.finish(call)
        return TdiConnection(self._connection, call.built)

    async def create(self, location: Location, attributes: bytes = b"", *, network: str = "udp") -> File:
        """Open a file as a driver does: by a create request and its extended attributes. Windows: IRP_MJ_CREATE.

        Raises RequestFailed when it is refused.
        """
        call = file_calls.create(self._connection.protocol, self.number, network, location, attributes)
        await self._connection.finish(call)
        return File(self._connection, file_calls.created(call))

    async def attach_filter(self, network: str = "udp", *, events: bool = False) -> Filter:
        """Come to stand above a network's device, as a TDI filter driver does. Windows: IoAttachDevice.

        Every open and request on it waits for this client; with ``events``, so does what goes up to other clients.
        """
        call = filter_calls.attach(self._connection.protocol, self.number, network, events=events)
        await self._connection.finish(call)
        return Filter(self._connection, call.built)

    async def query_network(self, query_type: int, *, network: str = "udp", buffer_bytes: int = 4096) -> bytes:
        """TDI_QUERY_INFORMATION on a control channel; the structure's bytes."""
        result = await self._connection.request(NETWORK_QUERY, self.number, network, query_type, buffer_bytes)
        return requests.query_answer(result)


class _End(EndView):
    """What a guest's channel and a host's offered channel have in common: packets in and out."""

    _connection: Connection
    _machine: Machine
    _ready_turns = 0

    async def send(
        self, buffer: bytes, mdl: Mdl | None = None, *, flags: int = SendFlags.WAIT_FOR_COMPLETION
    ) -> Completion:
        """Windows: VmbPacketSend. Returns the completion (empty, once in the ring, without WAIT_FOR_COMPLETION)."""
        call = requests.send(self._connection.protocol, self._open_state(), buffer, mdl, flags)
        await self._connection.finish(call)
        return requests.completion(call)

    async def post(self, payloads: Iterable[bytes]) -> int:
        """Send many packets without completion in few messages; returns their number when all are in the ring."""
        post = requests.post(self._connection.protocol, self._open_state(), payloads)
        (count,) = await self._connection.finish(post)
        return int(count)

    async def collect(self) -> list[bytes]:
        """The payloads of all packets that have come up to the first that wants an answer or shows memory; the fast way
        to take what ``post`` sends. Waits for one packet. Empty: what comes next, if anything, iterating yields.
        """
        state = self._inbox()
        state.collecting = True
        try:
            if state.items:
                self._ready_turns += 1
                if self._ready_turns % READY_TURNS == 0:
                    await trio.lowlevel.checkpoint()
            await self._connection.wait_for_item(state)
            payloads = taking.collect(self._connection.protocol, state.items)
            taking.refill(state)
        except StopAsyncIteration:
            return []
        finally:
            state.collecting = False
        self._connection.flush()
        return payloads

    async def _next(self, state: EndState | OfferState) -> Packet:
        await self._connection.wait_for_item(state)
        received = taking.take_packet(self._connection.protocol, state.items)
        if self._connection.protocol.outgoing:
            self._connection.flush()
        return Packet(self._connection, self._machine, received)


class Channel(_End, ChannelView):
    """An open channel, from its guest. Iterate over it for the packets the host sends."""

    async def send_with_external_mdl(
        self,
        buffer: bytes,
        mdl: Mdl | None,
        offset: int = 0,
        length: int = 0,
        flags: int = SendFlags.WAIT_FOR_COMPLETION,
    ) -> Completion:
        """Windows: VmbPacketSendWithExternalMdl. Send ``buffer`` and ``length`` bytes of what ``mdl`` describes.

        ``offset`` counts from the start of the described buffer; length 0 means all from there. Returns the host's
        completion. Raises RequestFailed with the status of the rule that refused it (K10 to K29).
        """
        protocol = self._connection.protocol
        call = requests.send_with_external_mdl(protocol, self._state, buffer, mdl, (offset, length), flags)
        await self._connection.finish(call)
        return requests.completion(call)

    async def send_with_external_pfns(
        self, buffer: bytes, pfns: Sequence[int] | None, flags: int = SendFlags.WAIT_FOR_COMPLETION
    ) -> Completion:
        """Windows: VmbPacketSendWithExternalPfns. Send ``buffer`` and whole pages of guest memory (K30 to K32)."""
        protocol = self._connection.protocol
        call = requests.send_with_external_pfns(protocol, self._state, buffer, pfns, flags)
        await self._connection.finish(call)
        return requests.completion(call)

    def __aiter__(self) -> Channel:
        return self

    async def __anext__(self) -> Packet:
        return await self._next(self._state)

    async def close(self) -> None:
        """Close it; packets that wait for their completion end with CANCELLED."""
        call = requests.close_channel(self._connection.protocol, self._state)
        if call is not None:
            await self._connection.finish(call)

    async def __aenter__(self) -> Channel:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class OfferedChannel(_End, OfferedChannelView):
    """A channel offered by this host. Iterate over it for the packets of its guests, one after another."""

    async def opened(self) -> None:
        """Return when a guest has it open."""
        while self._state.opening is None:
            if self._state.closed is not None:
                raise RequestFailed(*self._state.closed)
            await self._connection.wait_for(self._state)

    def __aiter__(self) -> OfferedChannel:
        return self

    async def __anext__(self) -> Packet:
        return await self._next(self._state)

    async def rescind(self) -> None:
        """Take the offer back; a guest's outstanding packets end with DEVICE_REMOVED."""
        call = requests.rescind(self._connection.protocol, self._state)
        if call is not None:
            await self._connection.finish(call)

    async def __aenter__(self) -> OfferedChannel:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.rescind()
