"""One scenario done twice, as a TDI client and as a WSK client, and where statuses or order differ.

Both ways run the same named steps. A step's outcome is a status and a count; what completes while others wait is
noted when it does, so that the order can be compared too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import NamedTuple

import trio
import trio.testing

from clients.calls import RequestFailed
from clients.tdi import Address
from clients.tdi_connections import TdiConnection
from clients.vmbus import Machine
from clients.wsk import WskConnectionSocket, WskProvider
from emulator.status import NtStatus
from emulator.tdi.constants import QueryType
from emulator.tdi.structures import parse_transport_address_untrusted

Endpoint = tuple[str, int]


class Outcome(NamedTuple):
    """How a step ended: a status by name, and how many bytes it was about."""

    status: str
    byte_count: int


class Difference(NamedTuple):
    """One step with both outcomes; ``tdi`` or ``wsk`` is None where that way has no such step."""

    step: str
    tdi: Outcome | None
    wsk: Outcome | None

    @property
    def differs(self) -> bool:
        """Whether the two ways disagree."""
        return self.tdi != self.wsk


class Comparison(NamedTuple):
    """Every step with both outcomes, and the order in which each way's steps completed."""

    steps: list[Difference]
    tdi_order: list[str]
    wsk_order: list[str]

    @property
    def order_differs(self) -> bool:
        """Whether the same steps completed in another order."""
        return self.tdi_order != self.wsk_order


class Journal:
    """What has completed, in order."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}

    async def attempt(self, step: str, work: Callable[[], Awaitable[object]]) -> object:
        """Do a step and note its end; what it returned, or None for a failure."""
        try:
            result = await work()
        except RequestFailed as failure:
            self.outcomes[step] = Outcome(failure.status.name, failure.information)
            return None
        status = getattr(result, "status", NtStatus.SUCCESS)
        information = getattr(result, "information", None)
        data = getattr(result, "data", result)
        count = information if isinstance(information, int) else len(data) if isinstance(data, bytes) else 0
        self.outcomes[step] = Outcome(status.name, count)
        return result


async def own_host(machine: Machine, network: str) -> str:
    """The machine's own address on a network."""
    data = await machine.query_network(QueryType.NETWORK_ADDRESS, network=network)
    return parse_transport_address_untrusted(data).host


async def compare(machine: Machine, network: str) -> Comparison:
    """Run the scenario on a machine: on real sockets (``udp``), or on a segment by its name."""
    streams = "tcp" if network == "udp" else network
    host = await own_host(machine, network)
    tdi = await _tdi_way(machine, network, streams, host)
    wsk = await _wsk_way(machine, network, streams, host)
    names = [*tdi.outcomes, *(name for name in wsk.outcomes if name not in tdi.outcomes)]
    steps = [Difference(name, tdi.outcomes.get(name), wsk.outcomes.get(name)) for name in names]
    common = set(tdi.outcomes) & set(wsk.outcomes)
    orders = [[name for name in way.outcomes if name in common] for way in (tdi, wsk)]
    return Comparison(steps, orders[0], orders[1])


async def _side_by_side(*tasks: Callable[[], Awaitable[object]]) -> None:
    """Each begins when those before it wait."""
    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(task)
            await trio.testing.wait_all_tasks_blocked()


# The steps have the same names in both.


async def _tdi_way(machine: Machine, datagrams: str, streams: str, host: str) -> Journal:
    journal = Journal()
    await _tdi_datagrams(journal, machine, datagrams, host)
    near = await machine.open_address((host, 0), network=streams)
    far = await machine.open_address((host, 0), network=streams)
    async with near, far:
        await journal.attempt("connect where nobody listens", lambda: near.connect(far.local))
        here, there = await _tdi_pair(journal, near, far)
        await journal.attempt("send", lambda: here.send(b"twelve bytes"))
        await journal.attempt("receive", there.receive)
        await _ends(journal, here, there)
        await here.close()
        await there.close()
    return journal


async def _tdi_datagrams(journal: Journal, machine: Machine, network: str, host: str) -> None:
    first = await machine.open_address((host, 0), network=network)
    async with first:
        local = first.local

        async def again(share: bool, at: Endpoint) -> None:
            await (await machine.open_address(at, network=network, share=share)).close()

        await journal.attempt("bind a port that is taken", lambda: again(False, local))
        await journal.attempt("bind it with sharing", lambda: again(True, local))
        await journal.attempt("bind a foreign address", lambda: again(False, ("198.51.100.1", 0)))
        await journal.attempt("send a datagram", lambda: first.send_datagram(b"datagram", local))
        await journal.attempt("receive it", first.__anext__)
        await journal.attempt("send an empty datagram", lambda: first.send_datagram(b"", local))
        await journal.attempt("receive the empty one", first.__anext__)
        await journal.attempt("send too long a datagram", lambda: first.send_datagram(bytes(65_535), local))
        await journal.attempt("send to port 0", lambda: first.send_datagram(b"x", (host, 0)))


async def _tdi_pair(journal: Journal, near: Address, far: Address) -> tuple[TdiConnection, TdiConnection]:
    here, there = await near.open_connection(), await far.open_connection()

    await journal.attempt("connect before anybody accepts", lambda: here.connect(far.local))
    await _side_by_side(
        partial(journal.attempt, "accept", there.listen),
        partial(journal.attempt, "connect", lambda: here.connect(far.local)),
    )
    return here, there


async def _ends(
    journal: Journal, here: TdiConnection | WskConnectionSocket, there: TdiConnection | WskConnectionSocket
) -> None:
    """The peer finishes, then aborts; and what the other side sees of it."""

    async def release() -> None:
        await journal.attempt("disconnect gracefully", here.disconnect)

    async def see() -> None:
        await journal.attempt("receive after the peer's end", there.receive)
        await journal.attempt("send after the peer's end", lambda: there.send(b"late"))
        await journal.attempt("abort", lambda: there.disconnect(abort=True))

    await _side_by_side(release, see)
    await journal.attempt("receive after the abort", here.receive)
    await journal.attempt("send after the abort", lambda: here.send(b"x"))


async def _wsk_way(machine: Machine, datagrams: str, streams: str, host: str) -> Journal:
    journal = Journal()
    provider = WskProvider(machine, datagrams=datagrams, streams=streams)
    await _wsk_datagrams(journal, provider, host)
    early, near, closed = (provider.connection_socket() for _ in range(3))
    far = provider.listening_socket()
    for each in (early, near, closed):
        await each.bind((host, 0))
    await far.bind((host, 0))
    await journal.attempt("connect where nobody listens", lambda: near.connect(closed.local))
    await journal.attempt("connect before anybody accepts", lambda: early.connect(far.local))
    accepted = [await far.accept()]

    async def accept() -> None:
        accepted.append(await far.accept())

    await _side_by_side(
        partial(journal.attempt, "accept", accept),
        partial(journal.attempt, "connect", lambda: near.connect(far.local)),
    )
    there = accepted[1]
    await journal.attempt("send", lambda: near.send(b"twelve bytes"))
    await journal.attempt("receive", there.receive)
    await _ends(journal, near, there)
    for socket in (early, near, *accepted, closed):
        await socket.close()
    await far.close()
    return journal


async def _wsk_datagrams(journal: Journal, provider: WskProvider, host: str) -> None:
    first = provider.datagram_socket()
    await first.bind((host, 0))
    local = first.local

    async def again(reuse: bool, at: Endpoint) -> None:
        other = provider.datagram_socket()
        await other.bind(at, reuse=reuse)
        await other.close()

    await journal.attempt("bind a port that is taken", lambda: again(False, local))
    await journal.attempt("bind it with sharing", lambda: again(True, local))
    await journal.attempt("bind a foreign address", lambda: again(False, ("198.51.100.1", 0)))
    await journal.attempt("send a datagram", lambda: first.send_to(b"datagram", local))
    await journal.attempt("receive it", first.receive_from)
    await journal.attempt("send an empty datagram", lambda: first.send_to(b"", local))
    await journal.attempt("receive the empty one", first.receive_from)
    await journal.attempt("send too long a datagram", lambda: first.send_to(bytes(65_535), local))
    await journal.attempt("send to port 0", lambda: first.send_to(b"x", (host, 0)))
    await first.close()
