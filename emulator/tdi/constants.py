"""The numbers and flags of the TDI interface, under readable names.

Each class names the family of Windows constants it stands for. Only what this transport needs is here.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag


class FileKind(IntEnum):
    """What a create request opened. Windows: FILE_OBJECT.FsContext2 of a transport's files."""

    ADDRESS = 1
    CONNECTION = 2
    CONTROL = 3


class MajorFunction(IntEnum):
    """What kind of request an IRP is. Windows: IRP_MJ_*. All TDI requests are INTERNAL_DEVICE_CONTROL."""

    CREATE = 0x00
    CLOSE = 0x02
    DEVICE_CONTROL = 0x0E
    INTERNAL_DEVICE_CONTROL = 0x0F
    CLEANUP = 0x12


class MinorFunction(IntEnum):
    """Which TDI request an internal device control is. Windows: TDI_SEND_DATAGRAM and its siblings."""

    ASSOCIATE_ADDRESS = 0x01
    DISASSOCIATE_ADDRESS = 0x02
    CONNECT = 0x03
    LISTEN = 0x04
    ACCEPT = 0x05
    DISCONNECT = 0x06
    SEND = 0x07
    RECEIVE = 0x08
    SEND_DATAGRAM = 0x09
    RECEIVE_DATAGRAM = 0x0A
    SET_EVENT_HANDLER = 0x0B
    QUERY_INFORMATION = 0x0C
    SET_INFORMATION = 0x0D
    ACTION = 0x0E


class QueryType(IntEnum):
    """Windows: TDI_QUERY_*."""

    BROADCAST_ADDRESS = 1
    PROVIDER_INFO = 2
    ADDRESS_INFO = 3
    CONNECTION_INFO = 4
    PROVIDER_STATISTICS = 5
    DATAGRAM_INFO = 6
    DATA_LINK_ADDRESS = 7
    NETWORK_ADDRESS = 8
    MAX_DATAGRAM_INFO = 9
    ADAPTER_STATUS = 0x100
    SESSION_STATUS = 0x200
    FIND_NAME = 0x300


class AddressType(IntEnum):
    """The kinds of address a TRANSPORT_ADDRESS entry can hold. Windows: TDI_ADDRESS_TYPE_*."""

    UNSPECIFIED = 0x00
    IP = 0x02
    NETBIOS = 0x11
    IEEE_802_2 = 0x12
    IP6 = 0x17


class ServiceFlags(IntFlag):
    """What a provider can do. Windows: TDI_SERVICE_*."""

    NONE = 0
    CONNECTION_MODE = 0x0001
    ORDERLY_RELEASE = 0x0002
    CONNECTIONLESS_MODE = 0x0004
    ERROR_FREE = 0x0008
    BROADCAST_SUPPORTED = 0x0020
    MULTICAST_SUPPORTED = 0x0040
    DELAYED_ACCEPTANCE = 0x0080
    EXPEDITED_DATA = 0x0100
    INTERNAL_BUFFERING = 0x0200
    NO_ZERO_LENGTH = 0x0800
    MESSAGE_MODE = 0x2000
    DGRAM_CONNECTION = 0x8000
    SEND_AND_DISCONNECT = 0x20000


class ReceiveFlags(IntFlag):
    """How data arrived, and which kind a receive wants. Windows: TDI_RECEIVE_*."""

    NONE = 0
    BROADCAST = 0x0004
    MULTICAST = 0x0008
    PARTIAL = 0x0010
    NORMAL = 0x0020
    EXPEDITED = 0x0040
    PEEK = 0x0080
    COPY_LOOKAHEAD = 0x0200
    ENTIRE_MESSAGE = 0x0400
    AT_DISPATCH_LEVEL = 0x0800


class SendFlags(IntFlag):
    """How a connection send shall be done; not the receive flags, whose bits are others (T20). Windows: TDI_SEND_*."""

    NONE = 0
    EXPEDITED = 0x0020
    PARTIAL = 0x0040
    NO_RESPONSE_EXPECTED = 0x0080
    NON_BLOCKING = 0x0100
    AND_DISCONNECT = 0x0200


class ListenFlags(IntFlag):
    """Windows: TDI_QUERY_ACCEPT."""

    NONE = 0
    QUERY_ACCEPT = 0x0001


class DisconnectFlags(IntFlag):
    """How a connection shall end, or has ended; none is an abort too (C32). Windows: TDI_DISCONNECT_*."""

    NONE = 0
    WAIT = 0x0001
    ABORT = 0x0002
    RELEASE = 0x0004


class EventType(IntEnum):
    """What an event handler is for. CONNECT is 0, and is an event like the others (T21). Windows: TDI_EVENT_*."""

    CONNECT = 0
    DISCONNECT = 1
    ERROR = 2
    RECEIVE = 3
    RECEIVE_DATAGRAM = 4
    RECEIVE_EXPEDITED = 5
    SEND_POSSIBLE = 6
    CHAINED_RECEIVE = 7
    CHAINED_RECEIVE_DATAGRAM = 8
    CHAINED_RECEIVE_EXPEDITED = 9
    ERROR_EX = 10


class ShareAccess(IntFlag):
    """Whether others may open the same address. Windows: FILE_SHARE_*."""

    EXCLUSIVE = 0
    READ = 1
    WRITE = 2
    DELETE = 4

    @property
    def is_shared(self) -> bool:
        """Sharing takes READ or WRITE; DELETE alone has no meaning for an address and shares nothing (rule CR8)."""
        return bool(self & (ShareAccess.READ | ShareAccess.WRITE))
