"""The client library: attach to the daemon as guest, as host, or as TDI client.

* ``connect`` (trio) and ``clients.sync.connect`` (no event loop) are the two faces; the names are the same.
* ``clients.protocol``, ``inbox`` and ``requests`` are the pure conversation both are made of.
"""

from clients.bus import BusGuest, attach_bus
from clients.connection import Connection, connect
from clients.driver import ChannelCallbacks, DriverPhase
from clients.driver_channel import DriverChannel, DriverPacket
from clients.file_calls import IrpResult
from clients.files import File
from clients.filter_calls import FilterCompletion, FilterRequest
from clients.filters import Filter
from clients.handlers import HandlerEvent, HandlerResult, Received, ReturnedRequest
from clients.inbox import Datagram
from clients.memory import Buffer, MachineMemory
from clients.packet import Packet
from clients.protocol import ConnectionLost, RequestFailed
from clients.requests import Completion, IoStatus
from clients.tdi import Address
from clients.tdi_connections import TdiConnection
from clients.vmbus import Channel, Machine, OfferedChannel
from emulator.tdi.constants import EventType as TdiEvent
from emulator.tdi.constants import QueryType
from emulator.vmbus.profile import Side
from emulator.vmbus.send_rules import SendFlags

__all__ = [
    "Address",
    "Buffer",
    "BusGuest",
    "Channel",
    "ChannelCallbacks",
    "Completion",
    "Connection",
    "ConnectionLost",
    "Datagram",
    "DriverChannel",
    "DriverPacket",
    "DriverPhase",
    "File",
    "Filter",
    "FilterCompletion",
    "FilterRequest",
    "HandlerEvent",
    "HandlerResult",
    "IoStatus",
    "IrpResult",
    "Machine",
    "MachineMemory",
    "OfferedChannel",
    "Packet",
    "QueryType",
    "Received",
    "RequestFailed",
    "ReturnedRequest",
    "SendFlags",
    "Side",
    "TdiConnection",
    "TdiEvent",
    "attach_bus",
    "connect",
]
