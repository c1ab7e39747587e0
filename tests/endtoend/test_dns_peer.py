"""Datagrams of a TDI address reach a UDP server that knows nothing of this project, and its answers come back.

The server is dnsmasq, a DNS server that answers for the names below ``example.test`` with a fixed address.
"""

from __future__ import annotations

import os
import pwd
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

import trio

from clients import connect
from tests.support.processes import free_udp_port, start_daemon, start_process
from tests.support.tools import TOOLS, require_tool

ADDRESS = IPv4Address("192.0.2.7")
ANSWER_TIMEOUT_SECONDS = 10.0

HEADER = struct.Struct("!HHHHHH")  # id, flags, questions, answers, authorities, additional
RECORD = struct.Struct("!HHIH")  # type, class, seconds to live, data bytes
TYPE_A, CLASS_IN = 1, 1
FLAG_RESPONSE, FLAG_RECURSION_DESIRED, CODE_MASK = 0x8000, 0x0100, 0x000F


def dns_query(name: str, query_id: int) -> bytes:
    """The question for the IPv4 address of a name, as RFC 1035 lays it out."""
    labels = b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.split("."))
    header = HEADER.pack(query_id, FLAG_RECURSION_DESIRED, 1, 0, 0, 0)
    return header + labels + b"\0" + struct.pack("!HH", TYPE_A, CLASS_IN)


def dns_answer(query: bytes, response: bytes) -> IPv4Address:
    """The one IPv4 address in the answer to a query, after checking that it is one."""
    query_id, flags, questions, answers, _, _ = HEADER.unpack_from(response)
    assert query_id == HEADER.unpack_from(query)[0]
    assert flags & FLAG_RESPONSE
    assert flags & CODE_MASK == 0
    assert (questions, answers) == (1, 1)
    question_end = len(query)
    assert response[HEADER.size : question_end] == query[HEADER.size :], "the question comes back as it was asked"
    assert response[question_end] & 0xC0 == 0xC0, "the name in the answer points at the one in the question"
    kind, family, _, data_bytes = RECORD.unpack_from(response, question_end + 2)
    assert (kind, family, data_bytes) == (TYPE_A, CLASS_IN, 4)
    return IPv4Address(response[question_end + 2 + RECORD.size :][:4])


@asynccontextmanager
async def dns_server(tmp_path: Path) -> AsyncIterator[tuple[str, int]]:
    """A dnsmasq on a free loopback port; yields where it listens."""
    program = require_tool("dnsmasq", TOOLS["dnsmasq"])
    port = free_udp_port()
    command = [
        program,
        "--no-daemon",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--pid-file=",
        f"--user={pwd.getpwuid(os.geteuid()).pw_name}",
        f"--port={port}",
        "--listen-address=127.0.0.1",
        "--bind-interfaces",
        f"--address=/example.test/{ADDRESS}",
    ]
    async with start_process(tmp_path, "dnsmasq", command, merge_output=True) as server:
        await server.wait_for_line("started, version")
        yield "127.0.0.1", port


async def test_a_dns_server_answers_a_query_sent_through_a_tdi_address(tmp_path: Path) -> None:
    async with (
        dns_server(tmp_path) as server,
        start_daemon(tmp_path) as daemon,
        connect(daemon.socket_path) as attached,
    ):
        machine = await attached.machine("vm1")
        address = await machine.open_address(("127.0.0.1", 0))
        query = dns_query("printer.example.test", 0x5EED)
        with trio.fail_after(ANSWER_TIMEOUT_SECONDS):
            await address.send_datagram(query, server)
            datagram = await anext(aiter(address))
        assert tuple(datagram.source) == server
        assert dns_answer(query, datagram.data) == ADDRESS


async def test_every_one_of_many_queries_gets_its_own_answer(tmp_path: Path) -> None:
    async with (
        dns_server(tmp_path) as server,
        start_daemon(tmp_path) as daemon,
        connect(daemon.socket_path) as attached,
    ):
        machine = await attached.machine("vm1")
        address = await machine.open_address(("127.0.0.1", 0))
        open_queries = {number: dns_query(f"host-{number}.example.test", number) for number in range(1, 101)}
        with trio.fail_after(ANSWER_TIMEOUT_SECONDS):
            for query in open_queries.values():
                await address.send_datagram(query, server)
            async for datagram in address:
                (number,) = struct.unpack_from("!H", datagram.data)
                assert dns_answer(open_queries.pop(number), datagram.data) == ADDRESS
                if not open_queries:
                    break
