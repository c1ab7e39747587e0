"""The structures a TDI request carries: what kernel clients put into a stack location, and what user mode sends.

The kernel forms lie inside the stack location's ``Parameters``. The user-mode forms begin with a TDI_REQUEST, have
16-bit flags and their time-outs in place of pointers to them. A chain of pointers starts in either: to a
TDI_CONNECTION_INFORMATION, and from there to addresses, options and user data.
"""

from __future__ import annotations

from emulator.tdi.layout import I32, I64, PTR, U16, U32, Structure

TDI_REQUEST = Structure(
    "TDI_REQUEST",
    (
        (
            "Handle",
            Structure("", (("AddressHandle", PTR), ("ConnectionContext", PTR), ("ControlChannel", PTR)), union=True),
        ),
        ("RequestNotifyObject", PTR),
        ("RequestContext", PTR),
        ("TdiStatus", U32),
    ),
)
TDI_REQUEST_STATUS = Structure(
    "TDI_REQUEST_STATUS", (("Status", U32), ("RequestContext", PTR), ("BytesTransferred", U32))
)

# User mode.

_REQUEST = ("Request", TDI_REQUEST)
_REQUEST_CONNECTION = ("RequestConnectionInformation", PTR)
_RETURN_CONNECTION = ("ReturnConnectionInformation", PTR)

TDI_REQUEST_SEND_DATAGRAM = Structure("TDI_REQUEST_SEND_DATAGRAM", (_REQUEST, ("SendDatagramInformation", PTR)))
TDI_REQUEST_RECEIVE_DATAGRAM = Structure(
    "TDI_REQUEST_RECEIVE_DATAGRAM",
    (_REQUEST, ("ReceiveDatagramInformation", PTR), ("ReturnInformation", PTR), ("ReceiveFlags", U16)),
)
TDI_REQUEST_SET_EVENT_HANDLER = Structure(
    "TDI_REQUEST_SET_EVENT_HANDLER", (_REQUEST, ("EventType", I32), ("EventHandler", PTR), ("EventContext", PTR))
)
TDI_REQUEST_QUERY_INFORMATION = Structure(
    "TDI_REQUEST_QUERY_INFORMATION", (_REQUEST, ("QueryType", U32), _REQUEST_CONNECTION)
)
TDI_REQUEST_SET_INFORMATION = Structure(
    "TDI_REQUEST_SET_INFORMATION", (_REQUEST, ("SetType", U32), _REQUEST_CONNECTION)
)
TDI_REQUEST_CONNECT = Structure(
    "TDI_REQUEST_CONNECT", (_REQUEST, _REQUEST_CONNECTION, _RETURN_CONNECTION, ("Timeout", I64))
)
TDI_REQUEST_LISTEN = Structure(
    "TDI_REQUEST_LISTEN", (_REQUEST, _REQUEST_CONNECTION, _RETURN_CONNECTION, ("ListenFlags", U16))
)
TDI_REQUEST_ACCEPT = Structure("TDI_REQUEST_ACCEPT", (_REQUEST, _REQUEST_CONNECTION, _RETURN_CONNECTION))
TDI_REQUEST_DISCONNECT = Structure("TDI_REQUEST_DISCONNECT", (_REQUEST, ("Timeout", I64)))
TDI_REQUEST_SEND = Structure("TDI_REQUEST_SEND", (_REQUEST, ("SendFlags", U16)))
TDI_REQUEST_RECEIVE = Structure("TDI_REQUEST_RECEIVE", (_REQUEST, ("ReceiveFlags", U16)))
TDI_REQUEST_ASSOCIATE_ADDRESS = Structure("TDI_REQUEST_ASSOCIATE_ADDRESS", (_REQUEST, ("AddressHandle", PTR)))

# Kernel mode.

TDI_REQUEST_KERNEL = Structure(
    "TDI_REQUEST_KERNEL",
    (("RequestFlags", U32), _REQUEST_CONNECTION, _RETURN_CONNECTION, ("RequestSpecific", PTR)),
)
TDI_REQUEST_KERNEL_ASSOCIATE = Structure("TDI_REQUEST_KERNEL_ASSOCIATE", (("AddressHandle", PTR),))
TDI_REQUEST_KERNEL_ACCEPT = Structure("TDI_REQUEST_KERNEL_ACCEPT", (_REQUEST_CONNECTION, _RETURN_CONNECTION))
TDI_REQUEST_KERNEL_SEND = Structure("TDI_REQUEST_KERNEL_SEND", (("SendLength", U32), ("SendFlags", U32)))
TDI_REQUEST_KERNEL_RECEIVE = Structure("TDI_REQUEST_KERNEL_RECEIVE", (("ReceiveLength", U32), ("ReceiveFlags", U32)))
TDI_REQUEST_KERNEL_SENDDG = Structure(
    "TDI_REQUEST_KERNEL_SENDDG", (("SendLength", U32), ("SendDatagramInformation", PTR))
)
TDI_REQUEST_KERNEL_RECEIVEDG = Structure(
    "TDI_REQUEST_KERNEL_RECEIVEDG",
    (
        ("ReceiveLength", U32),
        ("ReceiveDatagramInformation", PTR),
        ("ReturnDatagramInformation", PTR),
        ("ReceiveFlags", U32),
    ),
)
TDI_REQUEST_KERNEL_SET_EVENT = Structure(
    "TDI_REQUEST_KERNEL_SET_EVENT", (("EventType", I32), ("EventHandler", PTR), ("EventContext", PTR))
)
TDI_REQUEST_KERNEL_QUERY_INFORMATION = Structure(
    "TDI_REQUEST_KERNEL_QUERY_INFORMATION", (("QueryType", I32), _REQUEST_CONNECTION)
)
TDI_REQUEST_KERNEL_SET_INFORMATION = Structure(
    "TDI_REQUEST_KERNEL_SET_INFORMATION", (("SetType", I32), _REQUEST_CONNECTION)
)

TDI_CONNECTION_INFORMATION = Structure(
    "TDI_CONNECTION_INFORMATION",
    (
        ("UserDataLength", I32),
        ("UserData", PTR),
        ("OptionsLength", I32),
        ("Options", PTR),
        ("RemoteAddressLength", I32),
        ("RemoteAddress", PTR),
    ),
)
TDI_ACTION_HEADER = Structure("TDI_ACTION_HEADER", (("TransportId", U32), ("ActionCode", U16), ("Reserved", U16)))

STRUCTURES = tuple(each for each in globals().values() if isinstance(each, Structure))
