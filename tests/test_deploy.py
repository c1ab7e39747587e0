"""What ``deploy/`` holds: units that systemd takes, and a compose file whose commands do what they say."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml

from emulator.daemon.service_manager import KNOWN_SOCKETS
from tests.support.installed import DOCKERFILE
from tests.support.processes import ROOT, Running, start_process
from tests.support.tools import require_tool

DEPLOY = ROOT / "deploy"
UNITS = ("vmbusd.service", "vmbusd.socket", "vmbusd-metrics.socket")
# What docs/operating.md states; a unit that gets less safe has to say so there.
STATED_EXPOSURE = 1.3
PATIENCE_SECONDS = 60


def unit(name: str) -> dict[str, list[str]]:
    """Every setting of a unit file with its values, in order."""
    settings: dict[str, list[str]] = {}
    for line in (DEPLOY / name).read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            settings.setdefault(key, []).append(value)
    return settings


def installed(tmp_path: Path) -> Path:
    """The units as they stand in /etc, with a daemon that is here."""
    for name in UNITS:
        text = (DEPLOY / name).read_text().replace("/opt/vmbus/bin/vmbusd", f"{Path(sys.executable).parent}/vmbusd")
        (tmp_path / name).write_text(text)
    return tmp_path


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "SYSTEMD_COLORS": "0", "SYSTEMD_PAGER": "cat"}
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


def test_systemd_takes_every_unit_without_a_word(tmp_path: Path) -> None:
    analyze = require_tool("systemd-analyze", "systemd")
    verified = run(analyze, "verify", *[installed(tmp_path) / name for name in UNITS])
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


def test_the_service_is_as_confined_as_the_docs_state(tmp_path: Path) -> None:
    analyze = require_tool("systemd-analyze", "systemd")
    judged = run(analyze, "security", "--offline=true", installed(tmp_path) / "vmbusd.service")
    found = re.search(r"Overall exposure level for vmbusd.service: ([0-9.]+)", judged.stdout + judged.stderr)
    assert found, judged
    assert float(found[1]) <= STATED_EXPOSURE
    assert f"exposure level of {STATED_EXPOSURE}" in (ROOT / "docs/operating.md").read_text()


def test_sockets_are_passed_under_names_the_daemon_takes() -> None:
    names = [unit(name)["FileDescriptorName"] for name in UNITS if name.endswith(".socket")]
    assert sorted(names) == sorted([name] for name in KNOWN_SOCKETS)


def test_the_reload_drop_in_changes_the_type_and_nothing_else() -> None:
    parser = configparser.ConfigParser()
    parser.read(DEPLOY / "vmbusd.service.d/notify-reload.conf")
    assert {name: dict(parser[name]) for name in parser.sections()} == {
        "Service": {"type": "notify-reload", "execreload": ""}
    }
    assert unit("vmbusd.service")["ExecReload"] == ["/bin/kill -HUP $MAINPID"]


def test_the_stop_time_is_longer_than_a_drain() -> None:
    from emulator.config import Config
    from emulator.daemon.server import STOP_SECONDS

    (stop,) = unit("vmbusd.service")["TimeoutStopSec"]
    assert int(stop.removesuffix("s")) > Config().limits.drain_seconds + STOP_SECONDS


# ---- containers


def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return document


def test_the_services_share_the_volume_of_the_socket_and_nothing_else() -> None:
    document = compose()
    assert list(document["volumes"]) == ["vmbus"]
    for name, service in document["services"].items():
        assert service["volumes"] == ["vmbus:/run/vmbus"], name
        assert service["image"] == "vmbus-emulator", name
        assert not {"pid", "ipc", "network", "networks", "ports", "privileged"} & set(service), name
        if name != "vmbusd":
            assert service["network_mode"] == "none", name
        for needed in service.get("depends_on", {}):
            assert needed in document["services"], name


async def test_its_commands_run_in_namespaces_of_their_own(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make namespaces")
    unshare = require_tool("unshare", "util-linux")
    services = compose()["services"]
    # Process numbers stay shared: the program that makes such a namespace takes no signals, and has to.
    apart = [unshare, "--net", "--ipc", "--uts", "--mount"]
    scripts = Path(sys.executable).parent

    def command(name: str) -> list[str]:
        whole: list[str] = [*services[name].get("entrypoint", ["vmbusd"]), *services[name].get("command", [])]
        program, arguments = whole[0], whole[1:]
        return [*apart, str(scripts / program), *arguments]

    variables = {"VMBUS_SOCKET": str(tmp_path / "vmbusd.sock")}
    async with AsyncExitStack() as stack:

        async def start(name: str) -> Running:
            return await stack.enter_async_context(
                start_process(tmp_path, name, command(name), environment=variables, merge_output=True)
            )

        async def finish(child: Running) -> None:
            with trio.fail_after(PATIENCE_SECONDS):
                assert await child.process.wait() == 0, child.report()

        await (await start("vmbusd")).wait_for_line("ready on")
        await (await start("host")).wait_for_line("serving echo")
        for guest in ("guest-1", "guest-2"):
            await finish(await start(guest))
        peer = await start("peer")
        await peer.wait_for_line("istening")
        await finish(await start("sender"))
        await peer.wait_for_line("hello, vm2")
        await finish(peer)


def test_the_image_runs_as_a_user_who_can_listen_where_the_volume_is() -> None:
    assert "USER vmbus" in DOCKERFILE
    assert 'VOLUME ["/run/vmbus"]' in DOCKERFILE
    assert "VMBUS_SOCKET=/run/vmbus/vmbusd.sock" in DOCKERFILE
    assert 'ENTRYPOINT ["vmbusd"]' in DOCKERFILE


async def test_its_install_and_start_steps_work_in_a_fresh_environment(
    tmp_path: Path, installed_environment: Path
) -> None:
    """COPY, RUN and ENTRYPOINT as the file has them, below a directory of the test's; apt and users left out."""
    variables = {"VMBUS_SOCKET": str(tmp_path / "vmbusd.sock"), "PYTHONPATH": ""}
    (entry,) = re.findall(r'^ENTRYPOINT \["(.*)"\]$', DOCKERFILE, re.MULTILINE)
    (health,) = re.findall(r"HEALTHCHECK .* CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    command = [str(installed_environment / "bin" / entry)]
    async with start_process(tmp_path, "installed", command, environment=variables, merge_output=True) as daemon:
        await daemon.wait_for_line("ready on")
        program, *arguments = yaml.safe_load(health)
        environment = {**os.environ, **variables}
        check = [str(installed_environment / "bin" / program), *arguments]
        checked = await trio.run_process(check, env=environment, cwd=tmp_path)
        assert checked.returncode == 0
