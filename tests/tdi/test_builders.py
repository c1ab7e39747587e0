"""The builders against the driver kit's own macros: the same arguments, compiled and run, give the same bytes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from emulator.tdi import builders
from emulator.tdi.builders import Location, Target
from emulator.tdi.constants import ShareAccess
from emulator.tdi.create import OpenAddress, OpenConnection, parse_create_untrusted
from emulator.tdi.layout import Arch
from emulator.tdi.structures import SocketAddress, pack_transport_address
from tests.tdi.windows_headers import PROLOGUE, compiler_for

archs = pytest.mark.parametrize("arch", Arch, ids=lambda arch: arch.name.lower())
TARGET = Target(device_object=0x11111110, file_object=0x22222220, completion_routine=0x33333330, context=0x44444440)
QUIET = TARGET._replace(completion_routine=0)

# Each macro with its arguments behind the target's, and the builder's answer to the same.
MACROS = {
    "Accept": "(PVOID)0x51, (PVOID)0x52",
    "Action": "NULL",
    "AssociateAddress": "(PVOID)0x51",
    "Connect": "(PVOID)0x53, (PVOID)0x51, (PVOID)0x52",
    "DisassociateAddress": "",
    "Disconnect": "(PVOID)0x53, 4, (PVOID)0x51, (PVOID)0x52",
    "Listen": "1, (PVOID)0x51, (PVOID)0x52",
    "QueryInformation": "3, NULL",
    "Receive": "NULL, 0x60, 0x77",
    "ReceiveDatagram": "NULL, 0x77, (PVOID)0x51, (PVOID)0x52, 0x20",
    "Send": "NULL, 0x60, 0x77",
    "SendDatagram": "NULL, 0x77, (PVOID)0x51",
    "SetEventHandler": "8, (PVOID)0x51, (PVOID)0x52",
    "SetInformation": "5, NULL",
}


def built(arch: Arch, target: Target) -> dict[str, Location]:
    return {
        "Accept": builders.accept(arch, 0x51, 0x52, target),
        "Action": builders.action(arch, target),
        "AssociateAddress": builders.associate_address(arch, 0x51, target),
        "Connect": builders.connect(arch, 0x51, 0x52, 0x53, target),
        "DisassociateAddress": builders.disassociate_address(arch, target),
        "Disconnect": builders.disconnect(arch, 4, 0x53, 0x51, 0x52, target),
        "Listen": builders.listen(arch, 1, 0x51, 0x52, target),
        "QueryInformation": builders.query_information(arch, 3, target),
        "Receive": builders.receive(arch, 0x77, 0x60, target),
        "ReceiveDatagram": builders.receive_datagram(arch, 0x77, 0x51, 0x52, 0x20, target),
        "Send": builders.send(arch, 0x77, 0x60, target),
        "SendDatagram": builders.send_datagram(arch, 0x77, 0x51, target),
        "SetEventHandler": builders.set_event_handler(arch, 8, 0x51, 0x52, target),
        "SetInformation": builders.set_information(arch, 5, target),
    }


PROGRAM = """
#define ASSERT(x)
static char memory[8 * sizeof(IO_STACK_LOCATION)], request[sizeof(IRP)];
static IRP *irp = (IRP *)request;

static void say(const void *data, unsigned size) { %(write)s }

static PIO_STACK_LOCATION prepare(void) {
    char *at = memory;
    while (at < memory + sizeof memory) *at++ = 0;
    irp->CurrentLocation = 4;
    irp->Tail.Overlay.CurrentStackLocation = (PIO_STACK_LOCATION)memory + 4;
    return (PIO_STACK_LOCATION)memory + 3;
}

%(entry)s {
    PIO_STACK_LOCATION next;
%(calls)s
    %(leave)s
}
"""
WAYS = {
    Arch.X64: {
        "write": "extern long write(int, const void *, unsigned long); write(1, data, size);",
        "entry": "int main(void)",
        "leave": "return 0;",
    },
    # Without a library: not every machine has one for x86.
    Arch.X86: {
        "write": '__asm__ volatile("int $0x80" : : "a"(4), "b"(1), "c"(data), "d"(size) : "memory");',
        "entry": "void _start(void)",
        "leave": '__asm__ volatile("int $0x80" : : "a"(1), "b"(0));',
    },
}
BARE = ("-nostdlib", "-static", "-fno-pie", "-no-pie", "-fno-stack-protector", "-fcf-protection=none")


def run_macros(arch: Arch, target: Target, tmp_path: Path) -> dict[str, bytes]:
    """What each macro writes into the next stack location."""
    aimed = ", ".join(f"(PVOID)0x{each:X}" if each else "NULL" for each in target)
    calls = []
    for name, arguments in MACROS.items():
        more = f", {arguments}" if arguments else ""
        calls.append(f"    next = prepare(); TdiBuild{name}(irp, {aimed}{more}); say(next, sizeof *next);")
    source = tmp_path / f"macros_{arch.name}.c"
    source.write_text(PROLOGUE + PROGRAM % {**WAYS[arch], "calls": "\n".join(calls)})
    program = tmp_path / f"macros_{arch.name}"
    bare = BARE if arch is Arch.X86 else ()
    command = [*compiler_for(arch), "-std=gnu11", "-O1", *bare, "-I/usr/share/mingw-w64/include/ddk"]
    done = subprocess.run([*command, str(source), "-o", str(program)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    try:
        said = subprocess.run([str(program)], capture_output=True, check=True).stdout
    except OSError as error:
        pytest.skip(f"this machine does not run programs for {arch.name.lower()}: {error}")
    size = 9 * arch.pointer_bytes
    assert len(said) == size * len(MACROS)
    return {name: said[at * size : (at + 1) * size] for at, name in enumerate(MACROS)}


@archs
@pytest.mark.parametrize("target", [TARGET, QUIET], ids=["with a routine", "without"])
def test_the_macros_write_the_same_bytes(arch: Arch, target: Target, tmp_path: Path) -> None:
    written = run_macros(arch, target, tmp_path)
    ours = {name: location.image for name, location in built(arch, target).items()}
    if not target.completion_routine:
        # The macro stores no context where there is no routine to give it to.
        assert all(image[-2 * arch.pointer_bytes :] == bytes(2 * arch.pointer_bytes) for image in written.values())
    assert ours == written


@archs
def test_attributes_and_addresses_are_what_a_create_reads(arch: Arch) -> None:
    local = SocketAddress("192.0.2.7", 5000)
    attributes = builders.address_attribute(pack_transport_address(local))
    assert len(attributes) == 47
    assert parse_create_untrusted(attributes) == OpenAddress(local)
    context = builders.connection_attribute(arch, 0x1234)
    assert len(context) == (34 if arch is Arch.X64 else 30)
    expected = (0x1234).to_bytes(arch.pointer_bytes, "little")
    assert parse_create_untrusted(context, pointer_bytes=arch.pointer_bytes) == OpenConnection(expected)
    create = builders.create(arch, 50, ShareAccess.READ)
    assert (create.major, create.minor, len(create.image)) == (0, 0, 9 * arch.pointer_bytes)


def test_netbios_names_are_padded_with_spaces() -> None:
    image = builders.netbios_address(b"SERVER", group=True)
    assert image == bytes.fromhex("01000000 1200 1100 0100") + b"SERVER          "
    assert len(builders.netbios_address(b"A NAME THAT IS TOO LONG", group=False)) == 26
