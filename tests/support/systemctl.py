"""A stand-in for systemctl: does with unit files what the manager would, as far as the docs need it, below a directory.

It opens the sockets of socket units, starts services with those and a notify socket, and waits until they are ready.
What it does not do: users, sandboxes, dependencies. ``SANDBOX`` names the directory that stands for ``/``.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

SANDBOX = Path(os.environ["SANDBOX"])
UNITS = SANDBOX / "etc/systemd/system"
STATE = SANDBOX / "systemctl.json"
PATIENCE_SECONDS = 60.0


def settings(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (UNITS / unit).read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            value = value.replace("/opt/", f"{SANDBOX}/opt/").replace("/etc/", f"{SANDBOX}/etc/")
            found.setdefault(key, []).append(value)
    return found


def load() -> dict[str, int]:
    state: dict[str, int] = json.loads(STATE.read_text()) if STATE.exists() else {}
    return state


def wait_for(notify: socket.socket, word: str) -> None:
    notify.settimeout(PATIENCE_SECONDS)
    while word not in (said := notify.recv(4096).decode().split("\n")):
        pass
    (SANDBOX / "status").write_text("\n".join(said))


def notify_socket() -> socket.socket:
    path = SANDBOX / "notify.sock"
    path.unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))
    return sock


def start(service: str) -> int:
    """Start it with the socket of its socket unit; its process number, once it is ready."""
    unit, listen = settings(service), settings(service.replace(".service", ".socket"))
    path = Path(str(SANDBOX) + listen["ListenStream"][0])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with notify_socket() as notify, socket.socket(socket.AF_UNIX) as passed:
        passed.bind(str(path))
        path.chmod(int(listen["SocketMode"][0], 8))
        passed.listen()
        # The process number has to stand in the environment, so the new process writes it there itself.
        code = "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ['LISTEN_PID'] = str(os.getpid())\n"
        code += "os.execv(sys.argv[2], sys.argv[2:])"
        environment = {
            **os.environ,
            "NOTIFY_SOCKET": str(SANDBOX / "notify.sock"),
            "WATCHDOG_USEC": str(int(unit["WatchdogSec"][0].removesuffix("s")) * 1_000_000),
            "LISTEN_FDS": "1",
            "LISTEN_FDNAMES": listen["FileDescriptorName"][0],
        }
        with (SANDBOX / "journal").open("ab") as journal:
            process = subprocess.Popen(
                [sys.executable, "-c", code, str(passed.fileno()), *shlex.split(unit["ExecStart"][0])],
                env=environment,
                pass_fds=[passed.fileno()],
                stdout=journal,
                stderr=journal,
                start_new_session=True,
            )
        wait_for(notify, "READY=1")
        process.returncode = 0  # it lives on when this program ends
        return process.pid


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGTERM)
    ends = time.monotonic() + PATIENCE_SECONDS
    while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
        if time.monotonic() > ends:
            sys.exit(f"process {pid} does not stop")
        time.sleep(0.02)


def main(command: str, *arguments: str) -> None:
    units = [each for each in arguments if not each.startswith("-")]
    for each in units:
        settings(each)  # it must be installed
    state = load()
    services = [each for each in units if each.endswith(".service")]
    if command == "enable" and "--now" in arguments:
        command = "start"
    for service in services:
        unit = settings(service)
        if command == "start":
            state[service] = start(service)
        elif command == "restart":
            stop(state[service])
            state[service] = start(service)
        elif command == "stop":
            stop(state.pop(service))
        elif command == "reload":
            with notify_socket() as notify:
                reload_command = unit["ExecReload"][0].replace("$MAINPID", str(state[service]))
                subprocess.run(shlex.split(reload_command), check=True)
                wait_for(notify, "READY=1")
        elif command == "status":
            os.kill(state[service], 0)
            print((SANDBOX / "status").read_text())
        else:
            sys.exit(f"this stand-in knows no {command}")
    STATE.write_text(json.dumps(state))


if __name__ == "__main__":
    main(*sys.argv[1:])
