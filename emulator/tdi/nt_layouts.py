"""The objects of the I/O manager that a TDI request is made of, as C declares them.

Of the larger ones only what a client or a transport looks at has a name. DEVICE_OBJECT is as the mingw-w64 headers have
it; nothing here depends on its length.
"""

from __future__ import annotations

from emulator.tdi.address_layouts import UNICODE_STRING
from emulator.tdi.layout import (
    I64,
    PTR,
    U8,
    U16,
    U16_AT_POINTER,
    U32,
    U32_AT_POINTER,
    Structure,
    blob,
)

_LIST_ENTRY = Structure("LIST_ENTRY", (("Flink", PTR), ("Blink", PTR)))
_EVENT = Structure("KEVENT", (("_header", U32), ("_state", U32), ("_waiters", _LIST_ENTRY)))

IO_STATUS_BLOCK = Structure(
    "IO_STATUS_BLOCK",
    (("", Structure("", (("Status", U32), ("Pointer", PTR)), union=True)), ("Information", PTR)),
)
FILE_FULL_EA_INFORMATION = Structure(
    "FILE_FULL_EA_INFORMATION",
    (("NextEntryOffset", U32), ("Flags", U8), ("EaNameLength", U8), ("EaValueLength", U16), ("EaName", blob(1))),
)
MDL = Structure(
    "MDL",
    (
        ("Next", PTR),
        ("Size", U16),
        ("MdlFlags", U16),
        ("Process", PTR),
        ("MappedSystemVa", PTR),
        ("StartVa", PTR),
        ("ByteCount", U32),
        ("ByteOffset", U32),
    ),
)

_CREATE = Structure(
    "",
    (
        ("SecurityContext", PTR),
        ("Options", U32),
        ("FileAttributes", U16_AT_POINTER),
        ("ShareAccess", U16),
        ("EaLength", U32_AT_POINTER),
    ),
)
_DEVICE_IO_CONTROL = Structure(
    "",
    (
        ("OutputBufferLength", U32),
        ("InputBufferLength", U32_AT_POINTER),
        ("IoControlCode", U32_AT_POINTER),
        ("Type3InputBuffer", PTR),
    ),
)
_OTHERS = Structure("", (("Argument1", PTR), ("Argument2", PTR), ("Argument3", PTR), ("Argument4", PTR)))
IO_STACK_LOCATION = Structure(
    "IO_STACK_LOCATION",
    (
        ("MajorFunction", U8),
        ("MinorFunction", U8),
        ("Flags", U8),
        ("Control", U8),
        (
            "Parameters",
            Structure(
                "", (("Create", _CREATE), ("DeviceIoControl", _DEVICE_IO_CONTROL), ("Others", _OTHERS)), union=True
            ),
        ),
        ("DeviceObject", PTR),
        ("FileObject", PTR),
        ("CompletionRoutine", PTR),
        ("Context", PTR),
    ),
)

_TAIL = Structure(
    "",
    (
        (
            "Overlay",
            Structure(
                "",
                (
                    ("_driver_context", blob(32, 16)),
                    ("Thread", PTR),
                    ("_auxiliary", PTR),
                    ("ListEntry", _LIST_ENTRY),
                    ("CurrentStackLocation", PTR),
                    ("OriginalFileObject", PTR),
                ),
            ),
        ),
        ("_apc", blob(88, 48)),
    ),
    union=True,
)
IRP = Structure(
    "IRP",
    (
        ("Type", U16),
        ("Size", U16),
        ("MdlAddress", PTR),
        ("Flags", U32),
        ("AssociatedIrp", Structure("", (("SystemBuffer", PTR),))),
        ("_thread_list", _LIST_ENTRY),
        ("IoStatus", IO_STATUS_BLOCK),
        ("RequestorMode", U8),
        ("PendingReturned", U8),
        ("StackCount", U8),
        ("CurrentLocation", U8),
        ("Cancel", U8),
        ("CancelIrql", U8),
        ("_apc_environment", U8),
        ("AllocationFlags", U8),
        ("UserIosb", PTR),
        ("UserEvent", PTR),
        ("_overlay", blob(16, 8, align=8)),
        ("CancelRoutine", PTR),
        ("UserBuffer", PTR),
        ("Tail", _TAIL),
    ),
)

FILE_OBJECT = Structure(
    "FILE_OBJECT",
    (
        ("Type", U16),
        ("Size", U16),
        ("DeviceObject", PTR),
        ("_volume", PTR),
        ("FsContext", PTR),
        ("FsContext2", PTR),
        ("_section", PTR),
        ("_cache_map", PTR),
        ("_final_status", U32),
        ("_related", PTR),
        ("_access", blob(8)),
        ("Flags", U32),
        ("FileName", UNICODE_STRING),
        ("_byte_offset", I64),
        ("_waiters", U32),
        ("_busy", U32),
        ("_last_lock", PTR),
        ("_lock", _EVENT),
        ("_event", _EVENT),
        ("_completion", PTR),
        ("_irp_list_lock", PTR),
        ("_irp_list", _LIST_ENTRY),
        ("_extension", PTR),
    ),
)
DEVICE_OBJECT = Structure(
    "DEVICE_OBJECT",
    (
        ("Type", U16),
        ("Size", U16),
        ("ReferenceCount", U32),
        ("DriverObject", PTR),
        ("_links", blob(32, 16)),
        ("Flags", U32),
        ("Characteristics", U32),
        ("_volume", PTR),
        ("DeviceExtension", PTR),
        ("DeviceType", U32),
        ("StackSize", U8),
        ("_rest", blob(248, 132, align=4)),
    ),
)

STRUCTURES = (IO_STATUS_BLOCK, FILE_FULL_EA_INFORMATION, MDL, IO_STACK_LOCATION, IRP, FILE_OBJECT, DEVICE_OBJECT)
