"""The firewall in ``examples``, run as its readers run it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio
import trio.lowlevel

from clients import RequestFailed, connect
from emulator.status import NtStatus
from tests.support.processes import ROOT, start_daemon, start_process

PROGRAM = ROOT / "examples" / "firewall" / "firewall.py"
PATIENCE_SECONDS = 30.0


async def test_the_firewall_denies_a_port_and_everything_passes_when_it_is_killed(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon, connect(daemon.socket_path) as client:
        with trio.fail_after(PATIENCE_SECONDS):
            machine = await client.machine("vm1")
            far = await client.machine("vm2")
            open_port = await far.open_address(("10.0.0.2", 5000), network="lan")
            denied_port = await far.open_address(("10.0.0.2", 6005), network="lan")
            command = [sys.executable, str(PROGRAM), "--socket", str(daemon.socket_path), "--network", "lan"]
            command += ["--deny", "53", "--deny", "6000-6010", "--inbound"]
            async with start_process(tmp_path, "firewall", command, environment={"PYTHONPATH": str(ROOT)}) as firewall:
                await firewall.wait_for_line("guarding lan of vm1")
                address = await machine.open_address(("10.0.0.1", 0), network="lan")
                assert (await address.send_datagram(b"fine", open_port.local)).information == 4
                assert (await anext(aiter(open_port))).data == b"fine"
                with pytest.raises(RequestFailed, match="a filter ended it") as refused:
                    await address.send_datagram(b"secret", denied_port.local)
                assert refused.value.status is NtStatus.ACCESS_DENIED
                await firewall.wait_for_line("denied datagram of 6 bytes to ('10.0.0.2', 6005)")
                with pytest.raises(RequestFailed, match="a filter refused the open"):
                    await machine.open_address(("10.0.0.1", 53), network="lan")
                await denied_port.send_datagram(b"inbound", address.local)
                await firewall.wait_for_line("denied datagram from ('10.0.0.2', 6005)")
                firewall.kill()
                await firewall.process.wait()
            while True:
                try:
                    await address.send_datagram(b"after", denied_port.local)
                except RequestFailed:
                    await trio.lowlevel.checkpoint()  # the daemon has still to hear of its death
                else:
                    break
            assert (await anext(aiter(denied_port))).data == b"after"
