"""The import rules of the project hold for the tree as it stands, and the check that says so is able to say no."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.layers import BANNED_NAMES, check_layers, check_names, layer_of, modules_below

ROOT = Path(__file__).resolve().parent.parent


def plant(root: Path, files: dict[str, str]) -> None:
    """A small source tree under ``root``, with the ``__init__.py`` files it needs."""
    for name, text in {"emulator/__init__.py": "", "clients/__init__.py": "", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        package = path.parent
        while package != root:
            (package / "__init__.py").touch()
            package = package.parent


def test_the_project_keeps_its_layers() -> None:
    violations = check_layers(ROOT)
    assert not violations, "\n" + "\n".join(map(str, violations))


def test_the_check_sees_the_whole_project() -> None:
    modules = modules_below(ROOT)
    assert {
        "emulator",
        "emulator.status",
        "emulator.memory",
        "emulator.vmbus",
        "emulator.tdi",
        "clients",
    } <= modules.keys()


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert check_names(ROOT) == []


@pytest.mark.parametrize("name", sorted(BANNED_NAMES))
def test_a_name_that_says_nothing_is_reported(tmp_path: Path, name: str) -> None:
    plant(tmp_path, {f"emulator/vmbus/{name}.py": "", f"clients/{name}/words.py": ""})
    assert check_names(tmp_path) == [Path("emulator/vmbus") / f"{name}.py", Path("clients") / name]


FORBIDDEN = [
    ("emulator/status.py", "from emulator.memory import Mdl", "emulator.memory.Mdl"),
    ("emulator/memory.py", "import mmap", "mmap"),
    ("emulator/vmbus/ring.py", "import trio", "trio"),
    ("emulator/vmbus/ring.py", "import trio.lowlevel", "trio.lowlevel"),
    ("emulator/vmbus/ring.py", "from trio import sleep", "trio.sleep"),
    ("emulator/vmbus/ring.py", "import socket", "socket"),
    ("emulator/vmbus/ring.py", "import os", "os"),
    ("emulator/vmbus/ring.py", "from os.path import join", "os.path.join"),
    ("emulator/vmbus/ring.py", "from time import monotonic", "time.monotonic"),
    ("emulator/vmbus/ring.py", "import random", "random"),
    ("emulator/vmbus/ring.py", "import logging", "logging"),
    ("emulator/vmbus/ring.py", "import threading", "threading"),
    ("emulator/vmbus/ring.py", "import msgpack", "msgpack"),
    ("emulator/vmbus/ring.py", "import ctypes", "ctypes"),
    ("emulator/vmbus/ring.py", "from uuid import uuid4", "uuid.uuid4"),
    ("emulator/vmbus/ring.py", "import emulator.tdi.irp", "emulator.tdi.irp"),
    ("emulator/vmbus/ring.py", "from emulator import tdi", "emulator.tdi"),
    ("emulator/vmbus/ring.py", "from ..tdi import irp", "emulator.tdi.irp"),
    ("emulator/vmbus/ring.py", "from ..tdi.irp import Irp", "emulator.tdi.irp.Irp"),
    ("emulator/vmbus/__init__.py", "from ..wire import codec", "emulator.wire.codec"),
    ("emulator/vmbus/ring.py", "def late():\n    import emulator.daemon", "emulator.daemon"),
    ("emulator/vmbus/ring.py", "if TYPE_CHECKING:\n    import trio", "trio"),
    ("emulator/vmbus/ring.py", "clock = __import__('time')", "__import__()"),
    ("emulator/tdi/irp.py", "from emulator.vmbus import ring", "emulator.vmbus.ring"),
    ("emulator/tdi/irp.py", "from emulator.wire.codec import decode", "emulator.wire.codec.decode"),
    ("emulator/wire/codec.py", "import socket", "socket"),
    ("emulator/wire/codec.py", "import trio", "trio"),
    ("emulator/wire/codec.py", "from emulator.daemon import session", "emulator.daemon.session"),
    ("emulator/place.py", "from emulator.config import Config", "emulator.config.Config"),
    ("emulator/place.py", "import trio", "trio"),
    ("emulator/config.py", "import trio", "trio"),
    ("emulator/config.py", "import emulator.daemon.session", "emulator.daemon.session"),
    ("emulator/daemon/session.py", "import msgpack", "msgpack"),
    ("emulator/daemon/session.py", "import asyncio", "asyncio"),
    ("emulator/daemon/session.py", "import clients.protocol", "clients.protocol"),
    ("emulator/daemon/session.py", "from emulator.__main__ import main", "emulator.__main__.main"),
    ("emulator/__main__.py", "from clients.vmbus import open_channel", "clients.vmbus.open_channel"),
    ("emulator/__init__.py", "from emulator.status import NtStatus", "emulator.status.NtStatus"),
    ("clients/protocol.py", "import trio", "trio"),
    ("clients/protocol.py", "import socket", "socket"),
    ("clients/protocol.py", "from clients import connection", "clients.connection"),
    ("clients/sync.py", "import trio", "trio"),
    ("clients/sync.py", "from clients.connection import connect", "clients.connection.connect"),
    ("clients/connection.py", "from emulator.daemon import session", "emulator.daemon.session"),
    ("clients/connection.py", "from emulator.tdi.irp import Irp", "emulator.tdi.irp.Irp"),
    ("clients/connection.py", "from emulator.config import Config", "emulator.config.Config"),
    ("clients/connection.py", "import msgpack", "msgpack"),
    ("clients/connection.py", "import requests", "requests"),
]

SURROUNDINGS = {
    "emulator/status.py": "",
    "emulator/memory.py": "",
    "emulator/vmbus/ring.py": "",
    "emulator/tdi/irp.py": "",
    "emulator/tdi/structures.py": "",
    "emulator/wire/codec.py": "",
    "emulator/daemon/session.py": "",
    "emulator/config.py": "",
    "emulator/place.py": "",
    "emulator/__main__.py": "",
    "clients/connection.py": "",
    "clients/protocol.py": "",
    "clients/sync.py": "",
    "clients/vmbus.py": "",
}


@pytest.mark.parametrize(("name", "statement", "imported"), FORBIDDEN)
def test_a_forbidden_import_is_reported_with_its_place_and_its_rule(
    tmp_path: Path, name: str, statement: str, imported: str
) -> None:
    plant(tmp_path, {**SURROUNDINGS, name: f"# the first line\n{statement}\n"})
    [violation] = check_layers(tmp_path)
    assert violation.path == Path(name)
    assert violation.line == 2 + statement.count("\n")
    assert violation.imported == imported
    layer = layer_of(violation.module)
    assert layer is not None
    assert layer.reason in violation.rule
    assert str(violation).startswith(f"{name}:{violation.line}: {violation.module} imports {imported}: ")


ALLOWED = [
    ("emulator/memory.py", "from emulator.status import Misuse"),
    ("emulator/vmbus/ring.py", "import struct\nfrom collections.abc import Callable\nfrom ..memory import Mdl"),
    ("emulator/vmbus/ring.py", "from uuid import UUID\nfrom . import ring"),
    ("emulator/tdi/irp.py", "import ipaddress\nfrom emulator.tdi import structures"),
    ("emulator/wire/codec.py", "import msgpack\nfrom emulator.vmbus import ring\nfrom emulator.tdi import structures"),
    ("emulator/config.py", "import tomllib\nfrom pathlib import Path\nfrom pydantic import BaseModel"),
    (
        "emulator/daemon/session.py",
        "import os\nimport socket\nimport trio\nfrom emulator import config, tdi, vmbus, wire",
    ),
    (
        "emulator/__main__.py",
        "import click\nimport trio\nfrom emulator.config import Config\nimport emulator.daemon.session",
    ),
    ("clients/protocol.py", "from emulator.wire import codec\nfrom emulator.tdi.structures import parse"),
    ("emulator/place.py", "import os\nfrom pathlib import Path"),
    (
        "clients/sync.py",
        "import socket\nfrom emulator.place import default_socket_path\nfrom clients.protocol import Conversation",
    ),
    ("clients/connection.py", "import trio\nfrom . import protocol\nfrom emulator.tdi import structures"),
]


@pytest.mark.parametrize(("name", "text"), ALLOWED)
def test_an_allowed_import_passes(tmp_path: Path, name: str, text: str) -> None:
    plant(tmp_path, {**SURROUNDINGS, name: text})
    assert check_layers(tmp_path) == []


def test_a_module_in_no_layer_is_reported(tmp_path: Path) -> None:
    plant(tmp_path, {"emulator/weather.py": ""})
    [violation] = check_layers(tmp_path)
    assert (violation.path, violation.module) == (Path("emulator/weather.py"), "emulator.weather")
    assert "in no layer" in violation.rule
