"""Writes ``docs/wire-protocol.md``: all an author of a client needs, in any language, made from the table itself.

What the table knows (methods, arguments, limits) is rendered from it, so the document cannot fall behind; what only
words can say is in ``prose``. ``python -m emulator.wire.document > docs/wire-protocol.md`` remakes the file, and a test
compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgpack

from emulator.memory import GpaRange, Mdl, MdlFlags
from emulator.status import NtStatus
from emulator.vmbus.packets import encode_gpa_direct, encode_in_band
from emulator.wire.codec import FrameLimits, encode_notification, encode_request, encode_response
from emulator.wire.fields import Field
from emulator.wire.prose import CONVERSATION, EXAMPLE, EXAMPLE_RUNS, RUNS
from emulator.wire.runs import MOST_MDLS, pack_mdl_chain
from emulator.wire.schema import CHANNEL_WINDOW, HELLO, METHODS, PROTOCOL_VERSION, Kind, Method
from emulator.wire.window import PACKET_OVERHEAD_BYTES


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    def line(cells: Iterable[object]) -> str:
        return "| " + " | ".join(str(cell).replace("|", r"\|") for cell in cells) + " |"

    return "\n".join([line(head), "|---" * len(head) + "|", *map(line, rows)])


def _layout(rows: Iterable[tuple[object, str, str, str]]) -> str:
    return _table(("byte", "type", "name", "meaning"), rows)


_COST_TABLE = _table(
    ("what", "cost in bytes", "comes back"),
    [
        (
            "`packet.send`, `packet.send_external_mdl`",
            f"length of `buffer` + length of `mdl` + {PACKET_OVERHEAD_BYTES}",
            "`channel.window`, when it has left the ring (if the other end is direct: when it is in the ring), "
            "was refused, or was cancelled before it was in the ring",
        ),
        ("`packet.send_external_pfns`", f"length of `buffer` + length of `pfns` + {PACKET_OVERHEAD_BYTES}", "the same"),
        ("each packet of `packet.send_run`", f"its payload, padded to 8 bytes, + {PACKET_OVERHEAD_BYTES}", "the same"),
        (
            "`address.send_datagram`",
            f"length of `data` + {PACKET_OVERHEAD_BYTES}",
            "with its response: 1 packet and the cost; no `address.window` comes for it",
        ),
        (
            "each packet in `channel.packets`",
            "its length in the run",
            "the client sends `channel.window` when it is done with it",
        ),
        (
            "each datagram in `address.datagrams`",
            f"length of its data + {PACKET_OVERHEAD_BYTES}",
            "the client sends `address.window` when it is done with it",
        ),
    ],
)
_KIND_TABLE = _table(
    ("type", "packet", "between byte 16 and the payload"),
    [
        (6, "in-band", "nothing"),
        (
            7,
            "transfer pages",
            "set id u16, owner u8, 0 u8, range count u32, then for each range byte_count u32, byte_offset u32",
        ),
        (
            9,
            "GPA-direct: external data",
            "0 u32, range count u32, then for each range byte_count u32, byte_offset u32, page numbers u64",
        ),
        (11, "completion", "nothing; never in these runs"),
    ],
)
_MDL_TABLE = _layout(
    [
        (0, "u32", "byte_count", "length of the buffer"),
        (4, "u32", "byte_offset", "where it begins in its first page, 0 to 4,095"),
        (8, "u32", "flags", "MDL.MdlFlags; 0x2 pages locked, 0x4 non-paged pool; unknown bits are dropped"),
        (12, "u32", "page_count", "how many page numbers follow"),
        (16, "u64 each", "pages", "page numbers, in the order of the buffer"),
    ]
)
_PACKET_TABLE = _layout(
    [
        (0, "u16", "type", "see below"),
        (2, "u16", "data_offset8", "where the payload begins, in units of 8 bytes"),
        (4, "u16", "length8", "length of the packet, descriptor to padding, in units of 8 bytes"),
        (6, "u16", "flags", "0x1: a completion is requested"),
        (8, "u64", "transaction_id", "the sender's"),
    ]
)
_DATAGRAM_TABLE = _layout(
    [
        (0, "u32", "data_length", "bytes of data"),
        (4, "u16", "flags", "TDI_RECEIVE_* bits: how it arrived"),
        (6, "u16", "address_length", "bytes of address"),
        (8, "bytes", "address", "the source"),
        ("8 + address_length", "bytes", "data", "the datagram"),
    ]
)
_ADDRESS_TABLE = _layout(
    [
        (0, "u32", "count", "1"),
        (4, "u16", "address_length", "14"),
        (6, "u16", "address_type", "2 (IPv4)"),
        (8, "u16, network order", "port", ""),
        (10, "4 bytes", "address", "as in 127.0.0.1, 127 first"),
        (14, "8 bytes", "zero", ""),
    ]
)


def _methods() -> Iterator[str]:
    yield "## Methods\n"
    yield "`uN` is an unsigned integer of N bits, `str ≤ n` text of at most n characters, `bin` bytes.\n"
    rows = [(row.number, f"[`{row.name}`](#{_anchor(row)})", row.direction.value, row.kind.value) for row in METHODS]
    yield _table(("no.", "method", "direction", "kind"), rows) + "\n"
    for row in METHODS:
        yield f"### {_heading(row)}\n"
        yield f"{row.direction.value}, {row.kind.value}. {row.meaning}\n"
        yield _fields("argument", "arguments", row.params) + "\n"
        if row.kind is Kind.REQUEST:
            yield _fields("result", "results", row.result) + "\n"


def _heading(method: Method) -> str:
    return f"{method.number} `{method.name}`"


def _anchor(method: Method) -> str:
    """The place of a heading, as the common Markdown renderers name it: no punctuation, and a hyphen for each space."""
    kept = "".join(letter for letter in _heading(method) if letter.isalnum() or letter in " _-")
    return kept.lower().replace(" ", "-")


def _fields(one: str, many: str, fields: Sequence[Field]) -> str:
    if not fields:
        return f"No {many}."
    return _table(
        (one, "type", "meaning"), [(f"`{field.name}`", field.type.describe(), field.meaning) for field in fields]
    )


def _annotated(frame: bytes, parts: Iterable[tuple[bytes, str]], language: str = "text") -> str:
    """A frame's bytes in hex, a line for each part; the parts have to be the frame."""
    parts = list(parts)
    if b"".join(part for part, _ in parts) != frame:
        raise AssertionError(f"the parts are not the frame {frame.hex(' ')}")
    return "\n".join([f"```{language}", *(f"{part.hex(' '):<46}{meaning}" for part, meaning in parts), "```\n"])


def _array(count: int, meaning: str) -> tuple[bytes, str]:
    return bytes([0x90 | count]), f"array of {count}: {meaning}"


def _value(value: object, meaning: str) -> tuple[bytes, str]:
    packed: bytes = msgpack.packb(value)
    return packed, f"{'nil' if value is None else repr(value)}: {meaning}"


def _named(fields: Sequence[Field], values: Sequence[object]) -> list[tuple[bytes, str]]:
    return [_value(value, field.name) for field, value in zip(fields, values, strict=True)]


def _example() -> Iterator[str]:
    asked = (PROTOCOL_VERSION, PROTOCOL_VERSION, "example")
    limits = FrameLimits()
    answered = (PROTOCOL_VERSION, "0.1.0", 7, limits.frame_bytes, limits.elements, 8192)
    granted = (3, 16, 65536)
    yield EXAMPLE
    head = [_array(4, "the message"), _value(0, "request"), _value(1, "msgid"), _value(HELLO.name, "method")]
    head.append(_array(len(asked), "params"))
    yield _annotated(encode_request(1, HELLO, *asked), [*head, *_named(HELLO.params, asked)])
    head = [_array(4, "the message"), _value(1, "response"), _value(1, "msgid"), _value(None, "no error")]
    head.append(_array(len(answered), "result"))
    yield _annotated(encode_response(1, *answered), [*head, *_named(HELLO.result, answered)])
    head = [_array(3, "the message"), _value(2, "notification"), _value(CHANNEL_WINDOW.name, "method")]
    head.append(_array(len(granted), "params"))
    yield _annotated(encode_notification(CHANNEL_WINDOW, *granted), [*head, *_named(CHANNEL_WINDOW.params, granted)])
    yield from _example_runs()


def _example_runs() -> Iterator[str]:
    external = GpaRange(5000, 16, (0x101, 0x200))
    locked = MdlFlags.PAGES_LOCKED
    yield EXAMPLE_RUNS
    chain = Mdl(external.byte_offset, external.byte_count, external.pfns, locked)
    words = [(external.byte_count, "byte_count"), (external.byte_offset, "byte_offset"), (int(locked), "flags")]
    words.append((len(external.pfns), "page_count"))
    pages = [_number(8, pfn, "page") for pfn in external.pfns]
    yield _annotated(pack_mdl_chain(chain), [*(_number(4, *word) for word in words), *pages], "hexdump")
    run = encode_in_band(b"ping", 7) + encode_gpa_direct([external], b"data", 8)
    ranges = [
        (0, "reserved"),
        (1, "range count"),
        (external.byte_count, "byte_count"),
        (external.byte_offset, "byte_offset"),
    ]
    parts = [
        *_descriptor(6, 16, 24, 0, 7),
        (b"ping\0\0\0\0", "payload, padded"),
        *_descriptor(9, 48, 56, 1, 8),
        *(_number(4, *word) for word in ranges),
        *pages,
        (b"data\0\0\0\0", "payload, padded"),
    ]
    yield _annotated(run, parts, "hexdump")


def _number(width: int, value: int, meaning: str) -> tuple[bytes, str]:
    return value.to_bytes(width, "little"), f"{value if value < 0x100 or width < 8 else hex(value)}: {meaning}"


def _descriptor(kind: int, payload_at: int, length: int, flags: int, transaction_id: int) -> list[tuple[bytes, str]]:
    return [
        _number(2, kind, "type"),
        _number(2, payload_at // 8, f"data_offset8: the payload begins at byte {payload_at}"),
        _number(2, length // 8, f"length8: {length} bytes"),
        _number(2, flags, "flags"),
        _number(8, transaction_id, "transaction_id"),
    ]


def render() -> str:
    """The whole document as Markdown."""
    limits = FrameLimits()
    talk = CONVERSATION.format(
        version=PROTOCOL_VERSION,
        frame_bytes=limits.frame_bytes,
        elements=limits.elements,
        depth=limits.depth,
        cost_table=_COST_TABLE,
        cancelled=NtStatus.CANCELLED,
        not_implemented=NtStatus.NOT_IMPLEMENTED,
        invalid_parameter=NtStatus.INVALID_PARAMETER,
        insufficient=NtStatus.INSUFFICIENT_RESOURCES,
    )
    runs = RUNS.format(
        mdls=MOST_MDLS,
        mdl_table=_MDL_TABLE,
        packet_table=_PACKET_TABLE,
        kind_table=_KIND_TABLE,
        datagram_table=_DATAGRAM_TABLE,
        address_table=_ADDRESS_TABLE,
    )
    return "\n".join([talk, runs, *_methods(), *_example()])


if __name__ == "__main__":
    # The descriptor itself, so that the file is UTF-8 whatever the terminal's encoding is.
    with open(1, "w", encoding="utf-8", closefd=False) as output:
        output.write(render())
