"""docs/remote-attach.md, followed word for word: every command of it, in its order, in one shell."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import trio

from tests.support.processes import ROOT, free_udp_port, start_process

DOCUMENT = ROOT / "docs" / "remote-attach.md"
PATIENCE_SECONDS = 60.0


def until(command: str) -> str:
    """What somebody at a terminal does without being told: see that what was started is there."""
    again = "tries=$((tries + 1)); [ $tries -lt 100 ] || exit 9; sleep 0.1"
    return f"tries=0; until {command} 2>/dev/null; do {again}; done"


READY = {
    "vmbusd ": until("vmbusctl version | grep -q protocol"),
    "vmbusctl serve-echo ": until("vmbusctl channels | grep 5c0e3ab1"),
}


def script(port: int) -> str:
    """The document as a shell script that stops at the first command that fails."""
    words = ["set -eu", "trap 'kill $(jobs -p)' EXIT"]
    for kind, block in re.findall(r"^```(\w+)\n(.*?)^```$", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL):
        text = block.replace("4433", str(port))
        if kind == "sh":
            for line in text.splitlines():
                words.append(line)
                words += [wait for begin, wait in READY.items() if line.startswith(begin)]
        elif kind == "toml":
            words.append(f"cat >vmbusd.toml <<'END'\n{text}END")
        elif kind == "python":
            words.append(f"python <<'END'\n{text}END")
    return "\n".join([*words, "echo all done"])


async def test_every_command_of_the_document_does_what_it_says(tmp_path: Path) -> None:
    environment = {
        "VMBUS_SOCKET": str(tmp_path / "socket"),
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "PWD": str(tmp_path),
    }
    text = f"cd {tmp_path}\n{script(free_udp_port())}"
    command: list[str | Path] = ["bash", "-c", text]
    async with start_process(tmp_path, "shell", command, environment=environment, merge_output=True) as shell:
        with trio.fail_after(PATIENCE_SECONDS):
            for said in (
                "credentials of laptop are in",
                "laptop",
                "vm1",
                "status:     STATUS_SUCCESS",
                'completion: 8 B: "hello"',
                "b'hello",
                "laptop may be: vm1=guest,datagram vm2=host",
                "laptop is revoked",
                "the daemon lets 0 keys in",
                "all done",
            ):
                await shell.wait_for_line(said)


def test_the_settings_in_the_document_are_those_of_the_configuration() -> None:
    from emulator.config import QuicConfig

    named = set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", DOCUMENT.read_text(), re.MULTILINE))))
    assert named == set(QuicConfig.model_fields)
