"""``vmbusctl segments`` and ``vmbusctl segment NAME set`` against a running daemon."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.processes import run_client, start_daemon


async def test_a_segment_is_shown_and_changed(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        shown = await run_client("clients.cli", "segments", daemon=daemon)
        assert "lan" in shown.stdout
        assert "none" in shown.stdout
        changes = ["latency=20ms", "jitter=500us", "loss=1.5%", "rate=2M", "longest=500", "partition=vm1/vm2", "seed=7"]
        changed = await run_client("clients.cli", "segment", "lan", "set", *changes, "--json", daemon=daemon)
        document = json.loads(changed.stdout)
        expected = {
            "latency_seconds": 0.02,
            "jitter_seconds": 0.0005,
            "loss": 0.015,
            "rate_bytes_per_second": 2_000_000,
            "maximum_datagram_bytes": 500,
            "partition": [["vm1"], ["vm2"]],
            "seed": 7,
        }
        assert {key: document[key] for key in expected} == expected
        healed = await run_client("clients.cli", "segment", "lan", "set", "partition=", "stalled=yes", daemon=daemon)
        assert "latency=20ms" in healed.stdout
        assert "partition" not in healed.stdout
        (found,) = json.loads((await run_client("clients.cli", "segments", "--json", daemon=daemon)).stdout)
        assert (found["partition"], found["stalled"], found["machines"]["vm1"]) == ([], True, "10.0.0.1")


async def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    async with start_daemon(tmp_path) as daemon:
        for words, code, expected in (
            (["lan", "set", "colour=red"], 2, "the settings are latency"),
            (["lan", "set", "loss=much"], 2, "loss is a probability"),
            (["lan", "set", "latency=1h"], 2, "latency is a time"),
            (["lan", "set", "loss=2"], 1, "loss"),
            (["lan", "set", "partition=vm9"], 1, "no machine 'vm9'"),
            (["wan", "set", "loss=0"], 1, "there is no segment 'wan'"),
        ):
            done = await run_client("clients.cli", "segment", *words, daemon=daemon, expect_exit=code)
            assert expected in done.stderr
            assert len(done.stderr.strip().splitlines()) == 1
