"""A host and a guest that exchange numbered packets, each once and in order.

Run as ``python -m tests.endtoend.ordered SIDE COUNT``, for a guest with VMBUS_PLACE and VMBUS_CREDENTIALS.
"""

from __future__ import annotations

import os
import sys

import trio

from clients import connect
from tests.endtoend.programs import ECHO
from tests.endtoend.test_quic_path import send_in_order, take_in_order


async def host(count: int) -> None:
    async with connect(name="host") as attached, trio.open_nursery() as nursery:
        started = trio.Event()
        nursery.start_soon(take_in_order, await attached.machine("vm1"), count, started)
        await started.wait()
        print("offered", flush=True)
    print(f"taken {count}", flush=True)


async def guest(count: int) -> None:
    async with connect(
        os.environ["VMBUS_PLACE"], credentials=os.environ["VMBUS_CREDENTIALS"], name="guest"
    ) as attached:
        machine = await attached.machine("vm1")
        channel = await machine.open_channel(ECHO)
        await send_in_order(attached, machine, channel, count)
    print(f"finished {count}", flush=True)


if __name__ == "__main__":
    trio.run({"host": host, "guest": guest}[sys.argv[1]], int(sys.argv[2]))
