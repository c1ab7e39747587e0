"""The rows of a bus guest: a client that is a machine's whole guest side, message by message."""

from __future__ import annotations

from emulator.wire.fields import Field, Maybe
from emulator.wire.method import CHANNEL, CONTROL, IN, MACHINE, OUT, SENTENCE, U8, U16, U32, U64, row

_SLOT = (
    Field("vp", U32, "virtual processor"),
    Field("sint", U8, "its synthetic interrupt source: 2 for VMBus, unless the guest asked for another"),
)
_CONNECTION = Field("connection_id", U32, "the hypercall's connection id")
_HYPERCALL = (Field("status", U16, "what the hypercall returns: HV_STATUS, 0 is success"),)

# fmt: off
BUS_ATTACH = row(50, "bus.attach", IN, (MACHINE,), (
    Field("processors", U32, "virtual processors of the machine; a message to any other is lost"),
), "Become the machine's bus guest: its whole guest side, in place of the daemon's own. Refused while channels of the "
    "machine are open or waited for; opening one is refused while there is a bus guest.")
BUS_DETACH = row(51, "bus.detach", IN, (MACHINE,), (),
    "Leave: the host bus is reset, as if the guest had crashed, and the machine is free for other guests.")
BUS_POST = row(52, "bus.post", IN, (
    MACHINE, _CONNECTION, Field("payload", CONTROL, "the control message, byte for byte"),
), _HYPERCALL, "HvPostMessage. Messages that answer it may arrive before this response. 0x13 says that the port is "
    "full, because answers were not taken: take them and post it again.")
BUS_SIGNAL = row(53, "bus.signal", IN, (
    MACHINE, _CONNECTION, Field("flag", U16, "the event flag; 0 for VMBus"),
), _HYPERCALL, "HvSignalEvent: ring a channel's doorbell without a descriptor.")
BUS_MESSAGE = row(54, "bus.message", OUT, (
    MACHINE, *_SLOT, Field("payload", CONTROL, "the control message, byte for byte"),
), None, "A message stands in a message slot. The next one for that slot comes after `bus.message_taken`.")
BUS_MESSAGE_TAKEN = row(55, "bus.message_taken", IN, (MACHINE, *_SLOT), None,
    "The slot is free again (end of message).")
BUS_EVENT = row(56, "bus.event", OUT, (
    MACHINE, *_SLOT, Field("flag", U16, "the event flag, as the guest's open request set it"),
), None, "The host rings a channel whose doorbell was not asked for: the guest looks at its ring.")
BUS_DOORBELL = row(57, "bus.doorbell", IN, (
    MACHINE, Field("channel_id", U32, "the channel, as its offer numbers it; it must be open"),
), (
    Field("descriptors", U8, "1: the doorbell, a connected Unix stream socket, came with this"),
), "From now on this channel is rung, both ways, through a descriptor: any byte says \"look\". It is at its end when "
    "the host has let go of the channel.")
BUS_EVENT_FLAGS_PAGE = row(58, "bus.event_flags_page", IN, (
    MACHINE, Field("vp", U32, "virtual processor"),
    Field("address", Maybe(U64), "guest physical address of a page of 256 bytes of flags for each SINT; nil for none"),
), (), "The register SIEFP of a processor: from now on the host's event flags stand there, and an event or a doorbell "
    "comes when one was clear. For machines with `event_flags_page` in their configuration.")
CHANNEL_DAMAGED = row(59, "channel.damaged", IN, (
    CHANNEL, Field("reason", SENTENCE, "what the direct end found"),
), None, "The rings of this channel are damaged, as its direct end found: for the daemon's log and listings, which "
    "would not know otherwise. The client sends `channel.close` next.")
# fmt: on
