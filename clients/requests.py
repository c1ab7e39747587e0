"""Every request of the client API, as calls of the pure protocol: written once, awaited or waited for by the faces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

from clients.attaching import attach
from clients.calls import Post
from clients.direct import DirectEnd
from clients.direct_calls import DirectCall, DirectPacket, DirectPost
from clients.direct_rings import ring_fence
from clients.driver import DriverSend, DriverState
from clients.inbox import ChannelState, EndState, OfferState, ReceivedPacket
from clients.memory import Buffer, MachineMemory, gather, pages_named
from clients.protocol import GRANT, Call, ClientProtocol, RequestFailed, hello_arguments
from emulator.memory import GpaRange, GuestMemory, Mdl
from emulator.status import NtStatus, Refused
from emulator.vmbus.endpoint import Side
from emulator.wire.method import DO_NOT_QUEUE
from emulator.wire.runs import pack_mdl_chain, pack_pfns, unpack_pfns
from emulator.wire.schema import (
    CHANNEL_CLOSE,
    CHANNEL_OFFER,
    CHANNEL_OFFER_DIRECT,
    CHANNEL_OPEN,
    CHANNEL_OPEN_DIRECT,
    HELLO,
    MEMORY_ALLOCATE,
    MEMORY_FREE,
    MEMORY_PAGE,
    OFFER_RESCIND,
    PACKET_COMPLETE,
    PACKET_FAIL,
    PACKET_SEND,
    PACKET_SEND_EXTERNAL_MDL,
    PACKET_SEND_EXTERNAL_PFNS,
    PAYLOAD,
)
from emulator.wire.window import PACKET_OVERHEAD_BYTES

Identity = UUID | str


class Completion(bytes):
    """A completion's bytes, with its status."""

    status: NtStatus = NtStatus.SUCCESS


class IoStatus(NamedTuple):
    """How a request ended. Windows: IO_STATUS_BLOCK."""

    status: NtStatus
    information: int


def as_uuid(identity: Identity) -> UUID:
    """A GUID given as such or as text."""
    return identity if isinstance(identity, UUID) else UUID(identity)


def hello(protocol: ClientProtocol, name: str) -> Call:
    """The first call."""

    def greeted(result: tuple[Any, ...]) -> None:
        protocol.greeted(result[5])

    return protocol.call(HELLO, *hello_arguments(name), build=greeted)


def allocate_pages(protocol: ClientProtocol, machine: int, pages: int) -> Call:
    """Ask for pages of guest memory; builds their numbers."""

    def undo(result: tuple[Any, ...]) -> None:
        protocol.call(MEMORY_FREE, machine, result[0])

    def build(result: tuple[Any, ...]) -> tuple[int, ...]:
        return unpack_pfns(result[0])

    return protocol.call(MEMORY_ALLOCATE, machine, pages, build=build, undo=undo)


def page(protocol: ClientProtocol, machine: int, memory: GpaRange | Mdl | Buffer, *, out: bool) -> Call:
    """Mark pages as paged out, or in again: here at once, at the machine's other clients when they are told (R8)."""
    pfns = pack_pfns(pages_named(memory))

    def build(result: tuple[Any, ...]) -> None:
        protocol.paged(machine, pfns, out)

    return protocol.call(MEMORY_PAGE, machine, pfns, out, build=build)


# ---- channels


def offer_channel(
    protocol: ClientProtocol,
    machine: int,
    interface: Identity,
    instance: Identity | None,
    *,
    pipe: bool,
    direct: GuestMemory | None = None,
) -> Call:
    """Offer a channel; builds its OfferState. With ``direct``, the machine's memory, its rings are worked here."""
    kind = as_uuid(interface)

    def build(result: tuple[Any, ...]) -> OfferState:
        state = OfferState(result[0], kind, UUID(bytes_le=result[1]), pipe=pipe)
        if direct is not None:
            state.attach = partial(attach, (protocol, machine), direct, Side.HOST, pipe, state)
        protocol.add_offer(state)
        return state

    def undo(result: tuple[Any, ...]) -> None:
        if call.built is not None:
            rescind(protocol, call.built)
        else:
            protocol.call(OFFER_RESCIND, result[0])

    wanted = as_uuid(instance).bytes_le if instance is not None else None
    if direct is not None:
        call = protocol.call(CHANNEL_OFFER_DIRECT, machine, kind.bytes_le, wanted, pipe, build=build, undo=undo)
    else:
        call = protocol.call(CHANNEL_OFFER, machine, kind.bytes_le, wanted, pipe, *GRANT, build=build, undo=undo)
    return call


def open_channel(
    protocol: ClientProtocol,
    machine: int,
    interface: Identity,
    instance: Identity | None,
    *,
    wait: bool,
    ring_pages: tuple[int, int],
    direct: GuestMemory | None = None,
) -> Call:
    """Open a channel; builds its state and instance id. With ``direct``, the machine's memory, as ``offer_channel``."""

    def build(result: tuple[Any, ...]) -> tuple[EndState | None, UUID]:
        number, instance_bytes, pipe, *rest = result
        state: EndState | None
        if direct is not None:
            assert call.descriptor is not None, "a direct channel comes with its doorbell"
            state = attach((protocol, machine), direct, Side.GUEST, pipe, None, number, tuple(rest), call.descriptor)
            call.descriptor = None
        else:
            state = ChannelState(number, (rest[0], rest[1]), GRANT, pipe=pipe, offer=None)
        if state is not None:
            protocol.add_channel(state)
        return state, UUID(bytes_le=instance_bytes)

    def undo(result: tuple[Any, ...]) -> None:
        if call.built is not None and call.built[0] is not None:
            close_channel(protocol, call.built[0])
        else:
            protocol.call(CHANNEL_CLOSE, result[0])

    kind = as_uuid(interface).bytes_le
    wanted = as_uuid(instance).bytes_le if instance is not None else None
    args = machine, kind, wanted, wait, *ring_pages
    if direct is not None:
        call = protocol.call(CHANNEL_OPEN_DIRECT, *args, build=build, undo=undo)
    else:
        call = protocol.call(CHANNEL_OPEN, *args, *GRANT, build=build, undo=undo)
    return call


def opened_state(call: Call) -> tuple[EndState, UUID]:
    """What an open built; RequestFailed when its rings were damaged before they could be used."""
    state, instance = call.built
    if state is None:
        raise RequestFailed(NtStatus.DEVICE_REMOVED, "the channel's rings were written to while they were laid out")
    return state, instance


def direct_memory(mode: str, memory: MachineMemory) -> GuestMemory | None:
    """The memory for ``mode="direct"``, None for ``mode="hosted"``. Raises RequestFailed where direct cannot work."""
    if mode == "hosted":
        return None
    if mode != "direct":
        raise RequestFailed(NtStatus.INVALID_PARAMETER, f"a channel's mode is 'hosted' or 'direct', not {mode!r}")
    if not memory.is_mapped:
        text = "a direct channel needs guest memory mapped; connect with map_memory=True"
        raise RequestFailed(NtStatus.NOT_SUPPORTED, text)
    ring_fence()
    return memory.mapped


def close_channel(protocol: ClientProtocol, state: EndState) -> Call | None:
    """Close an open channel; None when it is closed already."""
    if state.closed is not None:
        return None
    call = protocol.call(CHANNEL_CLOSE, state.number)
    protocol.drop_channel(state, NtStatus.CANCELLED, "the channel was closed here")
    return call


def rescind(protocol: ClientProtocol, state: OfferState) -> Call | None:
    """Take an offer back; None when it is gone already."""
    if state.closed is not None:
        return None
    call = protocol.call(OFFER_RESCIND, state.number)
    opening = state.opening
    if opening is not None:
        protocol.drop_channel(opening, NtStatus.CANCELLED, "the offer was rescinded here")
    protocol.drop_offer(state)
    return call


def opening_of(state: OfferState) -> EndState:
    """The opening an offer has now."""
    if state.opening is None:
        raise RequestFailed(NtStatus.INVALID_DEVICE_STATE, "no guest has this channel open; wait for opened() first")
    return state.opening


Sending = Call | Post | DirectCall | DirectPost | DriverSend


def send(
    protocol: ClientProtocol, state: EndState, buffer: bytes, mdl: Mdl | None, flags: int, *, may_queue: bool = True
) -> Sending:
    """Windows: VmbPacketSend. Unless it may queue, it ends with BUFFER_OVERFLOW when there is no room (Y1)."""
    if isinstance(state, DirectEnd):
        return state.send(buffer, mdl, int(flags), may_queue=may_queue)
    chain = pack_mdl_chain(mdl)
    cost = len(buffer) + len(chain) + PACKET_OVERHEAD_BYTES
    bits = int(flags)
    if not may_queue:
        if not protocol.has_window(hosted(state)):
            raise RequestFailed(NtStatus.BUFFER_OVERFLOW, "others wait for room in the ring already [Y1]")
        bits |= DO_NOT_QUEUE
    args = state.number, bits, bytes(buffer), chain
    return protocol.call_in_window(hosted(state), cost, PACKET_SEND, *args)


def send_with_external_pfns(
    protocol: ClientProtocol, state: EndState, buffer: bytes, pfns: Sequence[int] | None, flags: int
) -> Sending:
    """Windows: VmbPacketSendWithExternalPfns."""
    if isinstance(state, DirectEnd):
        return state.send_pfns(buffer, None if pfns is None else tuple(pfns), int(flags))
    run = None if pfns is None else pack_pfns(pfns)
    cost = len(buffer) + len(run or b"") + PACKET_OVERHEAD_BYTES
    args = state.number, int(flags), bytes(buffer), run
    return protocol.call_in_window(hosted(state), cost, PACKET_SEND_EXTERNAL_PFNS, *args)


def send_with_external_mdl(
    protocol: ClientProtocol, state: EndState, buffer: bytes, mdl: Mdl | None, span: tuple[int, int], flags: int
) -> Sending:
    """Windows: VmbPacketSendWithExternalMdl; ``span`` is MdlOffset and MdlLength."""
    if isinstance(state, DirectEnd):
        return state.send_external(buffer, mdl, span, int(flags))
    chain = pack_mdl_chain(mdl)
    cost = len(buffer) + len(chain) + PACKET_OVERHEAD_BYTES
    args = state.number, int(flags), bytes(buffer), chain, *span
    return protocol.call_in_window(hosted(state), cost, PACKET_SEND_EXTERNAL_MDL, *args)


def post(protocol: ClientProtocol, state: EndState, payloads: Iterable[bytes]) -> Sending:
    """Many packets without completion."""
    if isinstance(state, DirectEnd):
        return state.post(list(payloads))
    return protocol.post(hosted(state), list(payloads))


def hosted(state: EndState) -> ChannelState:
    """A state that is not direct."""
    assert isinstance(state, ChannelState), "a channel is hosted or direct"
    return state


def completion(call: Sending) -> Completion:
    """What a send that is done came to."""
    status, payload = call.outcome()
    done = Completion(payload)
    if status:
        done.status = NtStatus(status)
    return done


def usable_ranges(
    protocol: ClientProtocol, machine: int, received: ReceivedPacket | DirectPacket
) -> tuple[GpaRange, ...]:
    """The guest memory a packet points at. Windows: VmbChannelPacketGetExternalData (rules R6, R7)."""
    if not received.has_external_data:
        status = protocol.profile_of(machine).kmcl.no_external_data_status
        raise RequestFailed(status, "the packet has no external data")
    if received.refusal is not None:
        raise RequestFailed(NtStatus(received.refusal[0]), received.refusal[1])
    if received.range_error is not None:
        raise RequestFailed(NtStatus.INVALID_PARAMETER, received.range_error)
    return received.ranges


def gather_mapped(memory: MachineMemory, ranges: tuple[GpaRange, ...]) -> bytes:
    """A copy of ranges of mapped guest memory."""
    try:
        return gather(memory.mapped, ranges)
    except Refused as refusal:
        raise RequestFailed(refusal.status, refusal.message) from None


def complete(protocol: ClientProtocol, packet: ReceivedPacket | DirectPacket, payload: bytes) -> None:
    """Windows: VmbChannelPacketComplete. On a channel that has closed meanwhile there is nobody to tell."""
    if packet.completed:
        raise RequestFailed(NtStatus.INVALID_DEVICE_STATE, f"packet {packet.handle} has been completed already")
    if len(payload) > PAYLOAD.most:
        text = f"a completion has at most {PAYLOAD.most} bytes, not {len(payload)}"
        raise RequestFailed(NtStatus.INVALID_PARAMETER, text)
    packet.completed = True
    if isinstance(packet, DirectPacket):
        packet.state.complete(packet, bytes(payload))
    elif (packet.is_held or isinstance(packet.state.offer, DriverState)) and packet.state.closed is None:
        protocol.notify(PACKET_COMPLETE, packet.state.number, packet.handle, bytes(payload))


def fail(protocol: ClientProtocol, packet: ReceivedPacket | DirectPacket) -> None:
    """Windows: VmbChannelPacketFail."""
    if isinstance(packet, DirectPacket):
        packet.state.fail(packet)
        packet.completed = True
        return
    if not packet.completed and packet.state.closed is None:
        protocol.notify(PACKET_FAIL, packet.state.number, packet.handle)
    packet.completed = True


# ---- how requests of TDI end


def raise_on_error(status: int, information: int, message: str) -> IoStatus:
    """How a request ended, with or without a warning; RequestFailed for an error."""
    known = NtStatus(status)
    if known.is_error:
        raise RequestFailed(known, message, information)
    return IoStatus(known, information)


def query_answer(result: tuple[Any, ...]) -> bytes:
    """The structure a query returned; RequestFailed for an error."""
    status, information, message, data = result
    raise_on_error(status, information, message)
    return bytes(data)
