"""The numbers and flags of the TDI interface, under readable names.

Each class names the family of Windows constants it stands for. Only what a datagram transport needs is here.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag


class FileKind(IntEnum):
    """What a create request opened. Windows: FILE_OBJECT.FsContext2 of a transport's files."""

    ADDRESS = 1
    CONNECTION = 2
    CONTROL = 3


class MajorFunction(IntEnum):
    """Windows: IRP_MJ_*, the one all TDI requests travel under."""

    INTERNAL_DEVICE_CONTROL = 0x0F


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

    CONNECTIONLESS_MODE = 0x0004
    BROADCAST_SUPPORTED = 0x0020
    MULTICAST_SUPPORTED = 0x0040
    NO_ZERO_LENGTH = 0x0800
    DGRAM_CONNECTION = 0x8000


class ReceiveFlags(IntFlag):
    """How a datagram arrived. Windows: TDI_RECEIVE_*."""

    NONE = 0
    BROADCAST = 0x0004
    MULTICAST = 0x0008
    ENTIRE_MESSAGE = 0x0400


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
