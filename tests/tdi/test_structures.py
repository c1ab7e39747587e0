"""Byte images of section 2.1, and the traps of whoever gets them wrong."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.status import NtStatus, Refused
from emulator.tdi.constants import ServiceFlags
from emulator.tdi.structures import (
    MAX_TRANSPORT_ADDRESS_BYTES,
    ProviderInfo,
    SocketAddress,
    Statistics,
    canonical_untrusted,
    pack_address_info,
    pack_data_link_address,
    pack_datagram_info,
    pack_max_datagram_info,
    pack_transport_address,
    parse_connection_information_untrusted,
    parse_transport_address_untrusted,
    walk_transport_address_untrusted,
)

IPV4 = SocketAddress("192.0.2.7", 5000)
IPV4_IMAGE = bytes.fromhex("01000000 0E00 0200 1388 C0000207 0000000000000000")
IPV6 = SocketAddress("2001:db8::1", 5000)
IPV6_IMAGE = bytes.fromhex("01000000 1A00 1700 1388 00000000 20010DB8000000000000000000000001 00000000")


@pytest.mark.parametrize(("address", "image"), [(IPV4, IPV4_IMAGE), (IPV6, IPV6_IMAGE)])
def test_byte_images_of_ip_addresses(address: SocketAddress, image: bytes) -> None:
    assert pack_transport_address(address) == image
    assert parse_transport_address_untrusted(image) == address


def test_t12_the_real_lengths_not_the_sizes_of_the_c_types() -> None:
    assert len(pack_transport_address(IPV4)) == 22
    assert len(pack_transport_address(IPV6)) == 34
    assert len(pack_address_info(1, IPV4)) == 26
    assert len(pack_data_link_address(bytes(6))) == 14


def test_t13_port_and_host_in_network_order_the_rest_little_endian() -> None:
    image = pack_transport_address(SocketAddress("1.2.3.4", 0x1234))
    assert image[:4] == b"\x01\0\0\0"
    assert image[8:14] == b"\x12\x34\x01\x02\x03\x04"


@pytest.mark.parametrize("length", [14, 16, 21])
def test_t14_a_length_that_does_not_cover_the_whole_list_is_refused(length: int) -> None:
    with pytest.raises(Refused, match="22 bytes for one IPv4 entry") as caught:
        parse_transport_address_untrusted(IPV4_IMAGE[:length])
    assert caught.value.status is NtStatus.INVALID_ADDRESS


def test_t15_a_bare_sockaddr_is_no_transport_address() -> None:
    sockaddr = struct.pack("<H", 2) + IPV4_IMAGE[8:]
    for bare in (sockaddr, IPV4_IMAGE[8:]):
        with pytest.raises(Refused):
            parse_transport_address_untrusted(bare)


def test_t18_an_unaligned_view_parses_like_any_other() -> None:
    shifted = memoryview(b"\xff" + IPV4_IMAGE)[1:]
    assert parse_transport_address_untrusted(shifted) == IPV4


def test_zero_padding_is_ignored_on_input() -> None:
    assert parse_transport_address_untrusted(IPV4_IMAGE[:14] + b"\xee" * 8) == IPV4


@pytest.mark.parametrize("count", [0, -1, -(2**31)])
def test_the_count_is_signed_and_at_least_one(count: int) -> None:
    with pytest.raises(Refused, match="one entry at least"):
        parse_transport_address_untrusted(struct.pack("<i", count) + IPV4_IMAGE[4:])


def test_entries_follow_each_other_without_padding() -> None:
    odd = struct.pack("<HH", 3, 99) + b"abc"
    entries = list(walk_transport_address_untrusted(struct.pack("<i", 2) + odd + IPV4_IMAGE[4:]))
    assert [(entry.address_type, len(entry.data)) for entry in entries] == [(99, 3), (2, 14)]


def test_a_scope_survives_both_ways() -> None:
    address = SocketAddress("fe80::1%3", 9)
    image = pack_transport_address(address)
    assert image[-4:] == b"\x03\0\0\0"
    assert parse_transport_address_untrusted(image) == address


def test_a_list_longer_than_anyone_needs_is_not_walked() -> None:
    empty_entries = struct.pack("<i", 2**30) + bytes(MAX_TRANSPORT_ADDRESS_BYTES)
    with pytest.raises(Refused, match="at most"):
        parse_transport_address_untrusted(empty_entries)


@given(st.binary(max_size=64))
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    result: SocketAddress | Refused
    try:
        result = parse_transport_address_untrusted(data)
    except Refused as refusal:
        result = refusal
    if isinstance(result, Refused):
        assert result.status is NtStatus.INVALID_ADDRESS
    else:
        assert canonical_untrusted(result) == result


@given(st.ip_addresses(), st.integers(0, 0xFFFF))
def test_every_address_comes_back_from_its_bytes(host: object, port: int) -> None:
    address = canonical_untrusted(SocketAddress(str(host), port))
    assert parse_transport_address_untrusted(pack_transport_address(address)) == address


@pytest.mark.parametrize("host", ["", "localhost", "1.2.3", "1" * 1000, "::1::", "127.0.0.1\0", "\N{BLACK STAR}"])
def test_a_host_that_is_no_ip_address_is_refused(host: str) -> None:
    with pytest.raises(Refused, match="not an IPv4 or IPv6 address"):
        canonical_untrusted(SocketAddress(host, 1))


def test_equal_hosts_get_one_spelling() -> None:
    assert canonical_untrusted(SocketAddress("2001:DB8:0:0::1", 1)) == SocketAddress("2001:db8::1", 1)


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_outside_its_range_is_refused(port: int) -> None:
    with pytest.raises(Refused, match=r"0\.\.65535"):
        canonical_untrusted(SocketAddress("127.0.0.1", port))


def test_connection_information_on_both_architectures() -> None:
    x64 = struct.pack("<i4xQi4xQi4xQ", 1, 0x11, 2, 0x22, 22, 0x7FFF00001000)
    x86 = struct.pack("<iIiIiI", 1, 0x11, 2, 0x22, 22, 0x80001000)
    assert (len(x64), len(x86)) == (48, 24)
    assert parse_connection_information_untrusted(x64) == (1, 0x11, 2, 0x22, 22, 0x7FFF00001000)
    assert parse_connection_information_untrusted(x86, 4) == (1, 0x11, 2, 0x22, 22, 0x80001000)


@pytest.mark.parametrize("image", [bytes(47), struct.pack("<i4xQi4xQi4xQ", 0, 0, 0, 0, -1, 0)])
def test_connection_information_that_is_short_or_negative_is_refused(image: bytes) -> None:
    with pytest.raises(Refused):
        parse_connection_information_untrusted(image)


def test_provider_info_image() -> None:
    flags = ServiceFlags.CONNECTIONLESS_MODE | ServiceFlags.BROADCAST_SUPPORTED
    info = ProviderInfo(65_507, flags, 128, 65_507, 0x0102030405060708)
    fields = [0x0200, 0, 0, 65_507, 0x24, 128, 65_507, 0]
    assert info.pack() == b"".join(value.to_bytes(4, "little") for value in fields) + bytes(range(8, 0, -1))


def test_datagram_limits_images() -> None:
    assert pack_datagram_info(65_507, 64) == bytes.fromhex("E3FF0000 40000000")
    assert pack_max_datagram_info(65_507) == bytes.fromhex("E3FF0000")


def test_address_info_image() -> None:
    assert pack_address_info(2, IPV4) == b"\x02\0\0\0" + IPV4_IMAGE


def test_data_link_address_image() -> None:
    assert pack_data_link_address(b"\x02\0\0\0\0\x05") == bytes.fromhex("01000000 0600 1200 020000000005")


def test_statistics_image_puts_each_counter_at_its_offset() -> None:
    image = Statistics(sent=2**32 + 3, sent_bytes=2**40, received=5, received_bytes=6).pack()
    assert len(image) == 200
    assert struct.unpack_from("<I", image, 0) == (0x0200,)
    assert struct.unpack_from("<I4xQ", image, 56) == (3, 2**40)
    assert struct.unpack_from("<I4xQ", image, 72) == (5, 6)
    assert struct.unpack_from("<II", image, 88) == (3, 5)
    assert not any(image[96:])
