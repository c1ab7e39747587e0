"""Which module may import what: the layers of the project as one table, and the check of a source tree against it.

The check reads the import statements of every module with ``ast`` and runs nothing. It looks everywhere in a file:
inside functions, and behind ``TYPE_CHECKING`` too, since a core that names a shell's type already leans on the shell.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

PACKAGES = ("emulator", "clients")

BANNED_NAMES = frozenset({"utils", "helpers", "common", "manager", "base"})
"""Module names that say nothing about what is inside, and so fill up with everything."""

PURE_STDLIB = frozenset(
    {
        "__future__",
        "abc",
        "array",
        "binascii",
        "bisect",
        "collections",
        "contextlib",
        "copy",
        "dataclasses",
        "enum",
        "functools",
        "heapq",
        "ipaddress",
        "itertools",
        "json",
        "math",
        "operator",
        "re",
        "string",
        "struct",
        "types",
        "typing",
        "zlib",
    }
)
"""What a pure module may take from the standard library: nothing that waits, reads a clock, draws chance, does I/O."""

PURE_STDLIB_NAMES = {"uuid": frozenset({"UUID"})}
"""Modules of which a pure module may take these names only; the rest of ``uuid`` draws chance and reads the clock."""

DYNAMIC_IMPORTS = frozenset({"__import__", "import_module"})


@dataclass(frozen=True)
class Layer:
    """One row of the table.

    ``members`` are the modules and packages it holds (a package stands for everything below it), ``project`` the ones
    they may import from this project, ``third_party`` the packages from elsewhere. A ``pure`` layer is held to
    PURE_STDLIB; ``banned_stdlib`` names what another layer has to do without. ``reason`` ends up in the report.
    """

    members: tuple[str, ...]
    project: tuple[str, ...]
    third_party: tuple[str, ...] = ()
    pure: bool = False
    banned_stdlib: tuple[str, ...] = ()
    reason: str = ""


class Violation(NamedTuple):
    """One broken rule, where it is, and the rule in words."""

    path: Path
    line: int
    module: str
    imported: str
    rule: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.module} imports {self.imported}: {self.rule}"


FOUNDATION = ("emulator.status", "emulator.memory", "emulator.choice")
MEETING_PLACE = "emulator.place"
CLIENT_CORE = (
    "clients.filtering",
    "clients.protocol",
    "clients.holdings",
    "clients.handlers",
    "clients.call_table",
    "clients.inbox",
    "clients.driver",
    "clients.driver_table",
    "clients.calls",
    "clients.bus_inbox",
)
BELOW_DAEMON = (
    *FOUNDATION,
    MEETING_PLACE,
    "emulator.vmbus",
    "emulator.tdi",
    "emulator.wire",
    "emulator.config",
    "emulator.config_file",
    "emulator.segment_config",
    "emulator.limits_config",
    "emulator.config_section",
)
CLIENT_SHARED = (
    "clients.memory",
    "clients.requests",
    "clients.address_calls",
    "clients.network_calls",
    "clients.unix",
    "clients.busy_poll",
    "clients.direct",
    "clients.direct_calls",
    "clients.direct_rings",
    "clients.direct_sends",
    "clients.taking",
    "clients.bus_calls",
    "clients.receive_calls",
    "clients.file_calls",
    "clients.filter_calls",
    "clients.connection_calls",
    "clients.driver_calls",
    "clients.driver_running",
    "clients.driver_sends",
    "clients.driver_limits",
    "clients.driver_views",
    "clients.attaching",
    "clients.verifier",
    "clients.views",
)
CLIENT_SYNC = (
    "clients.sync",
    "clients.sync_vmbus",
    "clients.sync_tdi",
    "clients.sync_receiving",
    "clients.sync_bus",
    "clients.sync_files",
    "clients.sync_filters",
    "clients.sync_tdi_connections",
    "clients.sync_driver",
)
BELOW_CLIENTS = (
    *FOUNDATION,
    "emulator.vmbus",
    "emulator.tdi.structures",
    "emulator.tdi.constants",
    "emulator.tdi.builders",
    "emulator.tdi.control_codes",
    "emulator.tdi.layout",
    "emulator.tdi.request_layouts",
    "emulator.tdi.address_layouts",
    "emulator.tdi.query_layouts",
    "emulator.tdi.nt_layouts",
    "emulator.wire",
    "emulator.place",
)
EVENT_LOOPS = ("asyncio", "selectors")

# The row with the closest member decides: `clients.protocol` goes before `clients`.
LAYERS = (
    Layer(("emulator.status",), (), pure=True, reason="statuses are the ground floor: pure, and above nothing"),
    Layer(
        ("emulator.memory",),
        ("emulator.status",),
        pure=True,
        reason="memory is pure and stands on emulator.status only",
    ),
    Layer(
        ("emulator.choice",),
        ("emulator.status",),
        pure=True,
        reason="how profiles are written is pure, and knows statuses only",
    ),
    Layer(
        ("emulator.choices_document",),
        (*FOUNDATION, "emulator.vmbus", "emulator.tdi"),
        pure=True,
        reason="the document of the choices is made from both cores' profiles, and from nothing that waits",
    ),
    Layer(
        ("emulator.vmbus",),
        (*FOUNDATION, "emulator.vmbus"),
        pure=True,
        reason="the VMBus core is pure: it knows status and memory, no TDI, no wire, no shell",
    ),
    Layer(
        ("emulator.tdi",),
        (*FOUNDATION, "emulator.tdi"),
        pure=True,
        reason="the TDI core is pure: it knows status and memory, no VMBus, no wire, no shell",
    ),
    Layer(
        ("emulator.wire",),
        (*FOUNDATION, "emulator.vmbus", "emulator.tdi", "emulator.wire"),
        third_party=("msgpack",),
        pure=True,
        reason="the wire is pure but for msgpack: bytes in, messages out, no socket and no clock",
    ),
    Layer(
        (MEETING_PLACE,),
        (),
        banned_stdlib=("socket", *EVENT_LOOPS),
        reason="where daemon and clients meet is a path: the environment is read for it, and nothing of the project",
    ),
    Layer(
        ("emulator.place",),
        (),
        reason="where the socket is: one rule for the daemon and its clients, and nothing else",
    ),
    Layer(
        ("emulator.toml_positions",),
        (),
        third_party=("tree_sitter", "tree_sitter_toml"),
        banned_stdlib=("socket", *EVENT_LOOPS),
        reason="places in a TOML document are found without knowing what the document is for",
    ),
    Layer(
        (
            "emulator.config",
            "emulator.config_file",
            "emulator.config_text",
            "emulator.segment_config",
            "emulator.limits_config",
            "emulator.config_section",
        ),
        (
            *FOUNDATION,
            MEETING_PLACE,
            "emulator.choices_document",
            "emulator.config",
            "emulator.segment_config",
            "emulator.limits_config",
            "emulator.config_section",
            "emulator.toml_positions",
            "emulator.vmbus",
            "emulator.tdi",
            "emulator.wire",
        ),
        third_party=("pydantic", "pydantic_core"),
        banned_stdlib=EVENT_LOOPS,
        reason="configuration is values: it may read a file, but never waits and never knows the daemon",
    ),
    Layer(
        ("emulator.remote",),
        (*FOUNDATION, "emulator.remote"),
        third_party=("aioquic", "cryptography"),
        banned_stdlib=EVENT_LOOPS,
        reason="what daemon and clients over UDP share waits for nothing, and knows neither of them",
    ),
    Layer(
        ("emulator.daemon",),
        (*BELOW_DAEMON, "emulator.daemon", "emulator.remote"),
        third_party=("aioquic", "cryptography", "trio", "structlog", "pydantic", "h11", "prometheus_client"),
        banned_stdlib=EVENT_LOOPS,
        reason="the daemon is the trio shell over the cores; msgpack stays behind the wire, clients are other programs",
    ),
    Layer(
        ("emulator.__main__",),
        ("emulator",),
        third_party=("trio", "structlog", "click", "pydantic"),
        banned_stdlib=EVENT_LOOPS,
        reason="vmbusd's command line sits at the top of emulator and knows no client",
    ),
    Layer(("emulator",), (), pure=True, reason="emulator/__init__.py is the map and imports nothing"),
    Layer(
        CLIENT_CORE,
        (*BELOW_CLIENTS, *CLIENT_CORE),
        pure=True,
        reason="the client's core is pure, so that both faces can share it",
    ),
    Layer(
        CLIENT_SHARED,
        (*BELOW_CLIENTS, *CLIENT_CORE, *CLIENT_SHARED),
        banned_stdlib=EVENT_LOOPS,
        reason="what both faces are made of knows neither of them, and no event loop",
    ),
    Layer(
        CLIENT_SYNC,
        (*BELOW_CLIENTS, MEETING_PLACE, *CLIENT_CORE, *CLIENT_SHARED, *CLIENT_SYNC),
        banned_stdlib=EVENT_LOOPS,
        reason="the synchronous face runs without an event loop",
    ),
    Layer(
        ("clients",),
        (*BELOW_CLIENTS, MEETING_PLACE, "clients", "emulator.remote"),
        third_party=("aioquic", "trio", "click", "rich"),
        banned_stdlib=EVENT_LOOPS,
        reason="clients share the cores they need and the wire with the daemon, never its shell",
    ),
)


def contains(member: str, module: str) -> bool:
    """Whether ``member`` is ``module`` or a package around it."""
    return module == member or module.startswith(member + ".")


def layer_of(module: str, layers: Iterable[Layer] = LAYERS) -> Layer | None:
    """The row that governs a module: the one with the longest matching member; None if the table forgot it."""
    matches = [
        (len(member), layer)
        for layer in layers
        for member in layer.members
        # `emulator` is only its own __init__: a new module below it has to be given a place in the table.
        if (module == member if member == "emulator" else contains(member, module))
    ]
    return max(matches, key=lambda match: match[0])[1] if matches else None


def modules_below(root: Path, packages: Iterable[str] = PACKAGES) -> dict[str, Path]:
    """Dotted name to file of every module of the named packages under ``root``."""
    found: dict[str, Path] = {}
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


class Import(NamedTuple):
    """One imported name: the module it comes from, the name taken from it ("" for the module itself), and the line."""

    module: str
    name: str
    line: int


def imports_of(tree: ast.Module, module: str, is_package: bool, known: Iterable[str]) -> Iterator[Import]:
    """Every import in a parsed module: relative ones resolved, an imported submodule told from a plain name."""
    names = frozenset(known)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, "", node.lineno)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                around = module.split(".")
                up = node.level - 1 if is_package else node.level
                source = ".".join([*around[: len(around) - up], *([source] if source else [])])
            for alias in node.names:
                submodule = f"{source}.{alias.name}"
                yield (
                    Import(submodule, "", node.lineno)
                    if submodule in names
                    else Import(source, alias.name, node.lineno)
                )
        elif isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if called in DYNAMIC_IMPORTS:
                yield Import(f"{called}()", "", node.lineno)


def refusal(found: Import, layer: Layer) -> str | None:
    """Why this layer may not have this import; None if it may."""
    top = found.module.partition(".")[0]
    if top in PACKAGES:
        allowed = any(contains(member, found.module) for member in layer.project)
        return None if allowed else layer.reason
    if found.module.endswith("()"):
        return f"an import made at run time hides from this check; {layer.reason}" if layer.pure else None
    if top in sys.stdlib_module_names:
        if not layer.pure:
            return layer.reason if top in layer.banned_stdlib else None
        if top in PURE_STDLIB or found.name in PURE_STDLIB_NAMES.get(top, ()):
            return None
        return f"'{top}' is not on the short list of pure standard modules; {layer.reason}"
    return None if top in layer.third_party else layer.reason


def check_layers(root: Path, layers: Iterable[Layer] = LAYERS) -> list[Violation]:
    """Every broken import rule in the packages under ``root``, in file order."""
    rows = tuple(layers)
    modules = modules_below(root)
    violations: list[Violation] = []
    for module, path in modules.items():
        shown = path.relative_to(root)
        layer = layer_of(module, rows)
        if layer is None:
            violations.append(
                Violation(shown, 1, module, "nothing yet", "it is in no layer; give it a row in the table")
            )
            continue
        tree = ast.parse(path.read_bytes(), filename=str(path))
        for found in imports_of(tree, module, path.name == "__init__.py", modules):
            rule = refusal(found, layer)
            if rule is not None:
                imported = f"{found.module}.{found.name}" if found.name else found.module
                violations.append(Violation(shown, found.line, module, imported, rule))
    return violations


def check_names(root: Path, packages: Iterable[str] = (*PACKAGES, "tests")) -> list[Path]:
    """Modules and packages whose name is one of BANNED_NAMES."""
    found = []
    for path in modules_below(root, packages).values():
        named = path.parent if path.name == "__init__.py" else path
        if named.stem in BANNED_NAMES:
            found.append(named.relative_to(root))
    return found
