"""A pipe in byte mode: chunks, partial reads, the end of the stream, and what a stranger may not put there."""

from __future__ import annotations

from random import Random

import pytest

from emulator.status import Misuse
from emulator.vmbus.packets import RingCorruption, encode_completion, encode_in_band
from emulator.vmbus.pipe_stream import PipeByteReader, PipeByteWriter, Written
from tests.vmbus.channel_pair import OUT, ends_of, receiver_on, ring_of

pytestmark = pytest.mark.usefixtures("ring_build")

MANY = 1 << 20


def stream(data_pages: int = 1, chunk_bytes: int = 2048) -> tuple[PipeByteWriter, PipeByteReader]:
    sender, receiver = ends_of(ring_of(data_pages))
    return PipeByteWriter(sender, chunk_bytes), PipeByteReader(receiver)


def partial(size: int, used: int, held: int) -> bytes:
    return encode_in_band((2).to_bytes(4, "little") + (size | used << 16).to_bytes(4, "little") + bytes(held))


def test_checklist_33_three_bytes_are_three_bytes() -> None:
    writer, reader = stream()
    assert reader.read(100) == (b"", False, False, True)
    assert writer.write(b"abc") == (3, True)
    assert reader.read(100) == (b"abc", False, False, True)


def test_v15_a_packet_of_the_stream() -> None:
    ring = ring_of(1)
    PipeByteWriter(ends_of(ring)[0]).write(b"hello")
    assert ring.read(0, 40).hex() == "06000200040000000000000000000000010000000500000068656c6c6f0000000000000000000000"


def test_checklist_33_twenty_thousand_bytes_through_a_ring_of_4096() -> None:
    writer, reader = stream()
    random = Random(1)
    data = random.randbytes(20_000)
    sent, came = 0, b""
    while len(came) < len(data):
        sent += writer.write(data[sent:]).byte_count
        came += reader.read(random.choice([1, 7, 500, 3000])).data
    assert came == data


def test_chunks_are_packets_of_their_own_in_one_publication() -> None:
    ring = ring_of(4)
    sender, receiver = ends_of(ring)
    assert PipeByteWriter(sender).write(bytes(5000)) == (5000, True)
    assert [len(image) for image in receiver.receive_batch(MANY, MANY).images] == [2072, 2072, 928]


def test_a_full_ring_takes_what_it_can_and_then_nothing() -> None:
    writer, reader = stream()
    assert writer.write(bytes(5000)).byte_count == 4024
    assert writer.write(b"more") == (0, False)
    assert len(reader.read(10).data) == 10
    assert len(reader.read(MANY).data) + len(reader.read(MANY).data) == 4014


def test_the_rest_of_a_packet_is_what_a_later_reader_finds() -> None:
    writer, reader = stream()
    writer.write(b"first, second")
    assert reader.rest() is None
    assert reader.read(5).data == b"first"
    rest = reader.rest()
    assert rest is not None
    sender, receiver = ends_of(ring_of(1))
    sender.send_batch([rest])
    assert PipeByteReader(receiver).read(MANY).data == b", second"
    assert reader.read(MANY).data == b", second"
    assert reader.rest() is None


def test_the_end_comes_alone_and_stays() -> None:
    writer, reader = stream()
    writer.write(b"last words")
    assert writer.end() == (1, False)
    with pytest.raises(Misuse, match="ended"):
        writer.write(b"")
    with pytest.raises(Misuse, match="ended already"):
        writer.end()
    assert reader.read(MANY) == (b"last words", False, False, False)
    assert reader.read(MANY)[:2] == (b"", True)
    assert reader.read(MANY)[:2] == (b"", True)


def test_the_end_waits_for_room() -> None:
    sender, receiver = ends_of(ring_of(1))
    writer = PipeByteWriter(sender)
    sender.send_batch([encode_in_band(bytes(4088 - 24))])
    assert writer.end() == (0, False)
    receiver.receive_batch(1, MANY)
    assert writer.end().byte_count == 1


def test_nothing_written_ends_nothing() -> None:
    writer, reader = stream()
    assert writer.write(b"") == Written(0, False)
    assert not reader.read(1).end


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        (partial(5, 5, 8), "would not be there"),
        (partial(0, 0, 8), "would not be there"),
        (partial(9, 1, 8), "9 bytes of pipe data"),
        (encode_in_band((1).to_bytes(4, "little") + (9).to_bytes(4, "little") + bytes(8)), "9 bytes of pipe data"),
        (encode_in_band((3).to_bytes(8, "little")), "neither data"),
        (encode_in_band(b""), "no room for its 8-byte header"),
        (encode_completion(bytes(8), 1), "in-band data only"),
        (encode_in_band(b"")[:6] + b"\2\0" + bytes(8), "flags"),
    ],
)
def test_36_what_does_not_belong_into_a_stream_ends_it_after_all_good_data(image: bytes, problem: str) -> None:
    ring = ring_of(1)
    sender, receiver = ends_of(ring)
    PipeByteWriter(sender).write(b"good")
    sender.send_batch([image])
    reader = PipeByteReader(receiver)
    assert reader.read(2).data == b"go"
    assert reader.read(MANY).data == b"od"
    for _ in range(2):
        with pytest.raises(RingCorruption, match=problem):
            reader.read(1)


def test_36_a_broken_ring_breaks_the_stream() -> None:
    ring = ring_of(1)
    writer = PipeByteWriter(ends_of(ring)[0])
    ring.control[OUT] = 3
    with pytest.raises(RingCorruption, match="out index"):
        writer.write(b"data")
    with pytest.raises(RingCorruption, match="out index"):
        receiver_on(ring)


@pytest.mark.parametrize("chunk_bytes", [0, -1, 16385])
def test_chunk_sizes_have_limits(chunk_bytes: int) -> None:
    with pytest.raises(Misuse, match="1 to 16384"):
        stream(1, chunk_bytes)


def test_a_read_asks_for_something() -> None:
    with pytest.raises(Misuse, match="at least one byte"):
        stream()[1].read(0)


@pytest.mark.parametrize("chunk_bytes", [1, 100, 16384])
def test_any_chunk_size_carries_any_stream(chunk_bytes: int) -> None:
    random = Random(chunk_bytes)
    writer, reader = stream(2, chunk_bytes)
    data = random.randbytes(30_000)
    sent, came = 0, b""
    while True:
        sent += writer.write(data[sent : sent + random.randrange(9000)]).byte_count
        got = reader.read(random.randrange(1, 9000))
        came += got.data
        if sent == len(data):
            writer.end()
            break
    while not (got := reader.read(1 + random.randrange(9000))).end:
        came += got.data
    assert came == data
