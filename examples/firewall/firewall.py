"""A firewall as a TDI filter: it refuses datagrams to certain ports, and logs what it sees.

    python firewall.py --machine vm1 --network lan --deny 53 --deny 6000-6010

It stands above the machine's device, in a process of its own. What is not denied passes on untouched; when this program
ends, everything does. Denied are sends to a port, opens of it, and connects to it, by whatever way they come: by name,
as the bytes of a stack location, or as a device control of user mode. With ``--inbound`` datagrams from such a port are
dropped on their way up.
"""

from __future__ import annotations

import argparse
import sys

import trio

from clients import ConnectionLost, FilterRequest, RequestFailed, connect
from emulator.status import NtStatus
from emulator.tdi.constants import MajorFunction, MinorFunction

GOES_SOMEWHERE = {MinorFunction.SEND_DATAGRAM: "datagram", MinorFunction.CONNECT: "connect"}


def ports(text: str) -> range:
    """One port, or a range of them such as 6000-6010."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def judge(request: FilterRequest, denied: list[range]) -> str | None:
    """What a request is, if it is denied; None lets it pass."""

    def is_denied(address: tuple[str, int] | None) -> bool:
        return address is not None and any(address[1] in each for each in denied)

    if request.event is not None:
        return f"datagram from {request.remote}" if is_denied(request.remote) else None
    if request.is_create:
        return f"open of {request.local}" if is_denied(request.local) else None
    if request.major != MajorFunction.INTERNAL_DEVICE_CONTROL or request.minor not in GOES_SOMEWHERE:
        return None
    what = GOES_SOMEWHERE[MinorFunction(request.minor)]
    return f"{what} of {request.length} bytes to {request.remote}" if is_denied(request.remote) else None


async def guard(options: argparse.Namespace) -> None:
    """Stand above the device until the daemon goes or takes the filter away."""
    async with connect(options.socket, name="firewall", map_memory=False) as daemon:
        machine = await daemon.machine(options.machine)
        async with await machine.attach_filter(options.network, events=options.inbound) as above:
            print(f"guarding {options.network} of {options.machine}", flush=True)
            async for request in above:
                reason = judge(request, options.deny)
                if reason is None:
                    request.pass_on()
                else:
                    request.end(NtStatus.ACCESS_DENIED)
                    print(f"denied {reason}", flush=True)
            print(f"over: {above.closed}", file=sys.stderr)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description="refuse datagrams to certain ports of a machine's network")
    parser.add_argument("--socket", help="the daemon's socket; the usual place if not given")
    parser.add_argument("--machine", default="vm1")
    parser.add_argument("--network", default="udp", help="udp, or the name of a segment")
    parser.add_argument("--deny", type=ports, action="append", default=[], metavar="PORT[-PORT]")
    parser.add_argument("--inbound", action="store_true", help="drop datagrams from these ports too")
    try:
        trio.run(guard, parser.parse_args())
    except (ConnectionLost, RequestFailed) as error:
        print(f"firewall: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
