"""The host that the JavaScript guest talks to: ``python -m tests.endtoend.node_host``; see ``examples/node/README.md``.

With ``--hold N`` it completes ``echo`` packets only when N of them have come, so that all N are on their way at once.
The daemon is the one in VMBUS_SOCKET.
"""

from __future__ import annotations

import argparse
import hashlib

import trio

from clients import OfferedChannel, Packet, connect
from emulator.vmbus.send_rules import SendFlags

NODE = "5f1d2b6c-7f10-4b6e-9c53-0e6d0c5a0002"


async def send_back(offered: OfferedChannel, count: int) -> None:
    """Numbered packets; every other one asks for a completion, and that has to be its payload, reversed."""
    for number in range(count):
        payload = number.to_bytes(4, "little") + b"odd!"
        if number % 2:
            answer = await offered.send(payload)
            if answer != payload[::-1]:
                raise SystemExit(f"packet {number} was completed with {answer.hex()}")
        else:
            await offered.send(payload, flags=SendFlags(0))
    print(f"sent {count}", flush=True)


async def serve(offered: OfferedChannel, nursery: trio.Nursery, hold: int) -> None:
    """Do what each packet asks for."""
    held: list[Packet] = []
    async for packet in offered:
        payload = packet.payload
        if payload.startswith(b"sha256"):
            await packet.complete(hashlib.sha256(packet.external_data()).digest())
        elif payload.startswith(b"send"):
            await packet.complete()
            nursery.start_soon(send_back, offered, int.from_bytes(payload[8:12], "little"))
        elif hold and payload.startswith(b"echo\0"):
            held.append(packet)
            if len(held) == hold:
                print(f"held {hold}", flush=True)
                for each in held:
                    await each.complete(each.payload)
        else:
            await packet.complete(payload)


async def main(options: argparse.Namespace) -> None:
    async with connect(name="node host") as daemon, trio.open_nursery() as nursery:
        machine = await daemon.machine("vm1")
        offered = await machine.offer_channel(NODE, pipe=options.pipe)
        print("offered", flush=True)
        await serve(offered, nursery, options.hold)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pipe", action="store_true")
    parser.add_argument("--hold", type=int, default=0)
    trio.run(main, parser.parse_args())
