"""The guest's driver again, line by line as it would be in C, on ``clients.kmcl``.

python -m examples.block_device.vsc_kmcl vm1
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio

from clients import Machine
from clients.kmcl import (
    KMCL_CLIENT_INTERFACE_TYPE,
    KMCL_CLIENT_INTERFACE_V1,
    KMCL_CLIENT_INTERFACE_VERSION_LATEST,
    NT_SUCCESS,
    NTSTATUS,
    PMDL,
    STATUS_INSUFFICIENT_RESOURCES,
    STATUS_SUCCESS,
    STATUS_UNSUCCESSFUL,
    VMB_CHANNEL_STATE_CHANGE_CALLBACKS,
    VMB_CHANNEL_STATE_CHANGE_CALLBACKS_INIT,
    VMBCHANNEL,
    VMBPACKET,
    VMBPACKETCOMPLETION,
    VMBUS_CHANNEL_FORMAT_FLAG_WAIT_FOR_COMPLETION,
    WDFDEVICE,
    LastRefusal,
    Out,
    WdfFdoQueryForInterface,
    sizeof,
)
from examples.block_device.programs import run, try_out
from examples.block_device.protocol import (
    ANSWER_BYTES,
    BLOCK_BYTES,
    INTERFACE,
    VERSION,
    Operation,
    Outcome,
    Request,
    parse_answer_untrusted,
)

Kmcl = KMCL_CLIENT_INTERFACE_V1()  # static, as in most drivers: the functions are the same for every device
NEGOTIATION_TIMEOUT = -5 * 10_000_000  # 5 s from now, in 100 ns


@dataclass
class BLK_CONTEXT:
    """What the driver keeps of one disk."""

    Channel: VMBCHANNEL | None = None
    Blocks: int = 0
    Ready: trio.Event = field(default_factory=trio.Event)  # KEVENT


@dataclass
class BLK_REQUEST:
    """What the driver keeps of one request: its packet's pointer."""

    Done: trio.Event = field(default_factory=trio.Event)  # KEVENT
    Status: NTSTATUS = STATUS_UNSUCCESSFUL
    Outcome: Outcome = Outcome.OUT_OF_RANGE


async def BlkDeviceAdd(Device: WDFDEVICE, Context: BLK_CONTEXT) -> NTSTATUS:
    """EvtDriverDeviceAdd: get KMCL's functions, and make the channel."""
    Status: NTSTATUS = WdfFdoQueryForInterface(
        Device,
        KMCL_CLIENT_INTERFACE_TYPE,
        Kmcl,
        sizeof(KMCL_CLIENT_INTERFACE_V1),
        KMCL_CLIENT_INTERFACE_VERSION_LATEST,
        None,
    )
    if not NT_SUCCESS(Status):
        return Status

    Channel: Out[VMBCHANNEL] = Out()
    Status = Kmcl.VmbChannelAllocate(Device, False, Channel)
    if not NT_SUCCESS(Status):
        return Status
    Context.Channel = Channel.value
    Kmcl.VmbChannelSetPointer(Context.Channel, Context)

    Callbacks = VMB_CHANNEL_STATE_CHANGE_CALLBACKS()
    VMB_CHANNEL_STATE_CHANGE_CALLBACKS_INIT(Callbacks)
    Callbacks.EvtChannelPostStarted = BlkEvtChannelPostStarted
    Callbacks.EvtChannelClosed = BlkEvtChannelClosed

    Status = Kmcl.VmbChannelInitSetStateChangeCallbacks(Context.Channel, Callbacks)
    if NT_SUCCESS(Status):
        Status = Kmcl.VmbChannelInitSetProcessPacketCallbacks(Context.Channel, BlkEvtChannelProcessPacket, None)
    if NT_SUCCESS(Status):
        Status = Kmcl.VmbClientChannelInitSetRingBufferPageCount(Context.Channel, 16, 16)
    if NT_SUCCESS(Status):
        Status = Kmcl.VmbClientChannelInitSetTargetPnp(Context.Channel, INTERFACE, None, BlkEvtChannelPnpFailure)
    if NT_SUCCESS(Status):
        Status = await Kmcl.VmbChannelEnable(Context.Channel)
    if not NT_SUCCESS(Status):
        await Kmcl.VmbChannelCleanup(Context.Channel)
        Context.Channel = None
    return Status


async def BlkDeviceRemove(Context: BLK_CONTEXT) -> None:
    """EvtDeviceReleaseHardware: let go of the disk."""
    if Context.Channel is not None:
        await Kmcl.VmbChannelDisable(Context.Channel)
        await Kmcl.VmbChannelCleanup(Context.Channel)
        Context.Channel = None


async def BlkEvtChannelPostStarted(Channel: VMBCHANNEL) -> None:
    """EvtVmbChannelPostStarted: packets flow, so this is the place to negotiate."""
    Context: BLK_CONTEXT = Kmcl.VmbChannelGetPointer(Channel)
    Buffer = Request(Operation.NEGOTIATE, VERSION).pack()
    CompletionBuffer = bytearray(ANSWER_BYTES)
    CompletionBufferSize = Out(ANSWER_BYTES)
    Status = await Kmcl.VmbChannelSendSynchronousRequest(
        Channel,
        Buffer,
        len(Buffer),
        None,
        VMBUS_CHANNEL_FORMAT_FLAG_WAIT_FOR_COMPLETION,
        CompletionBuffer,
        CompletionBufferSize,
        NEGOTIATION_TIMEOUT,
    )
    if not NT_SUCCESS(Status) or CompletionBufferSize.value != ANSWER_BYTES:
        return
    Answer = parse_answer_untrusted(bytes(CompletionBuffer))
    if Answer.outcome is Outcome.GOOD:
        Context.Blocks = Answer.blocks
        Context.Ready.set()


def BlkEvtChannelClosed(Channel: VMBCHANNEL) -> None:
    """EvtVmbChannelClosed: the disk is gone, for now."""
    Context: BLK_CONTEXT = Kmcl.VmbChannelGetPointer(Channel)
    Context.Blocks = 0
    Context.Ready = trio.Event()


def BlkEvtChannelPnpFailure(Channel: VMBCHANNEL, FailureStatus: NTSTATUS) -> None:
    """EvtVmbChannelPnpFailure: there is a disk, and it would not open."""
    print(f"the disk was found and not opened: {FailureStatus}")


def BlkEvtChannelProcessPacket(
    Channel: VMBCHANNEL, Packet: VMBPACKETCOMPLETION, Buffer: bytes, BufferLength: int, Flags: int
) -> None:
    """EvtVmbChannelProcessPacket: this host sends nothing unasked. Whatever it is, it is malformed."""
    Kmcl.VmbChannelPacketFail(Packet)


def BlkSubmit(Context: BLK_CONTEXT, Wanted: Request, Mdl: PMDL, Pending: BLK_REQUEST) -> NTSTATUS:
    """Send a request for the memory that ``Mdl`` describes; ``Pending.Done`` is set when the answer is there."""
    Packet = Kmcl.VmbPacketAllocate(Context.Channel)
    if Packet is None:
        return STATUS_INSUFFICIENT_RESOURCES
    Kmcl.VmbPacketSetPointer(Packet, Pending)
    Kmcl.VmbPacketSetCompletionRoutine(Packet, BlkEvtPacketCompleted)
    Buffer = Wanted.pack()
    Status: NTSTATUS = Kmcl.VmbPacketSendWithExternalMdl(
        Packet, Buffer, len(Buffer), Mdl, 0, 0, VMBUS_CHANNEL_FORMAT_FLAG_WAIT_FOR_COMPLETION
    )
    if not NT_SUCCESS(Status):
        Kmcl.VmbPacketFree(Packet)  # it was not sent, and is still ours
    return Status


def BlkEvtPacketCompleted(Packet: VMBPACKET, Status: NTSTATUS, Buffer: bytes | None, BufferLength: int) -> None:
    """EvtVmbPacketCompletionRoutine: the answer is there, or there will be none."""
    Pending: BLK_REQUEST = Kmcl.VmbPacketGetPointer(Packet)
    Pending.Status = Status
    if NT_SUCCESS(Status):
        if Buffer is None or BufferLength != ANSWER_BYTES:
            Pending.Status = STATUS_UNSUCCESSFUL
        else:
            Pending.Outcome = parse_answer_untrusted(Buffer).outcome
    Kmcl.VmbPacketFree(Packet)
    Pending.Done.set()


class KmclDisk:
    """The driver, as the programs use a disk."""

    def __init__(self, machine: Machine, *, mode: str = "hosted") -> None:
        self._machine = machine
        self._device = WDFDEVICE(machine, mode=mode)
        self._context = BLK_CONTEXT()

    @property
    def blocks(self) -> int:
        """How large it is."""
        return self._context.Blocks

    async def open(self) -> None:
        """Return when the disk is there and has said how large it is."""
        if not NT_SUCCESS(await BlkDeviceAdd(self._device, self._context)):
            raise OSError(LastRefusal())
        await self._context.Ready.wait()

    async def close(self) -> None:
        """Let go of the disk."""
        await BlkDeviceRemove(self._context)

    async def read(self, first: int, blocks: int) -> bytes:
        """The content of blocks."""
        with await self._machine.allocate(blocks * BLOCK_BYTES) as data:
            await self._transfer(Request(Operation.READ, blocks, first), data.mdl)
            return data.read()

    async def write(self, first: int, content: bytes) -> None:
        """Change whole blocks."""
        with await self._machine.allocate(len(content)) as data:
            data.write(0, content)
            await self._transfer(Request(Operation.WRITE, len(content) // BLOCK_BYTES, first), data.mdl)

    async def _transfer(self, wanted: Request, mdl: PMDL) -> None:
        pending = BLK_REQUEST()
        if not NT_SUCCESS(BlkSubmit(self._context, wanted, mdl, pending)):
            raise OSError(LastRefusal())
        await pending.Done.wait()
        if pending.Status is not STATUS_SUCCESS or pending.Outcome is not Outcome.GOOD:
            raise OSError(f"{wanted}: {pending.Status}, {pending.Outcome.name}")


async def main(machine: Machine, mode: str, blocks: int) -> None:
    """The program."""
    disk = KmclDisk(machine, mode=mode)
    await disk.open()
    print(f"a disk of {disk.blocks} blocks")
    await try_out(disk)
    await disk.close()


if __name__ == "__main__":
    run(__doc__, main)
