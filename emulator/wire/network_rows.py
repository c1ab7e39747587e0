"""Rows of the table for the networks below addresses: bursts, multicast groups, options of sends, segments."""

from __future__ import annotations

from emulator.wire.fields import Binary, Field, Text
from emulator.wire.method import ADDRESS, HOST, IN, NAME, RUN, SENTENCE, U16, U32, row

BURST_DATAGRAMS = 4_096
"""Most datagrams in one frame; a window mostly allows fewer."""

LENGTHS = Binary(4 * BURST_DATAGRAMS, unit=4)
OPTIONS_TEXT = Text(64 * 1024)

_GROUP = (
    ADDRESS,
    Field("group", HOST, "the multicast address"),
    Field("interface", HOST, "the machine's own address on the interface; 0.0.0.0 or :: for the first"),
)

# fmt: off
ADDRESS_SEND_BURST = row(130, "address.send_burst", IN, (
    ADDRESS, Field("host", HOST, "destination IP address"), Field("port", U16, "destination port"),
    Field("lengths", LENGTHS, "of each datagram, u32 little-endian"),
    Field("data", RUN, "the datagrams, back to back"),
), (
    Field("sent", U32, "how many of them ended with success"),
    Field("statuses", LENGTHS, "empty when that is all of them; else the NTSTATUS of each, u32 little-endian"),
    Field("message", SENTENCE, "why, in words, of the first that failed"),
), "Many TDI_SEND_DATAGRAM to one destination, each with its own outcome; one response when the last has ended. Each "
    "takes its packet and bytes of the window, the response gives back all of them.")
ADDRESS_JOIN = row(131, "address.join", IN, _GROUP, (),
    "Make the address object a member of a multicast group (AO_OPTION_ADD_MCAST).")
ADDRESS_LEAVE = row(132, "address.leave", IN, _GROUP, (),
    "End one join (AO_OPTION_DEL_MCAST). All end when the address is closed.")
ADDRESS_OPTIONS = row(133, "address.options", IN, (
    ADDRESS, Field("changes", OPTIONS_TEXT, "a JSON object of those to change, perhaps none"),
), (Field("options", OPTIONS_TEXT, "all of them, as a JSON object"),),
    "How its datagrams leave: `ttl`, `multicast_ttl`, `multicast_interface`, `multicast_loop`, `broadcast`, "
    "`type_of_service`.")
SEGMENT_CHANGE = row(134, "segment.change", IN, (
    Field("segment", NAME, "its name"),
    Field("changes", OPTIONS_TEXT, "a JSON object of settings to change, named as in the configuration, perhaps none"),
), (Field("segment", OPTIONS_TEXT, "what it is like then, as `daemon.inspect` has it"),),
    "Change what a segment does to datagrams and connections while the daemon runs: latency, loss and so on.")
# fmt: on
