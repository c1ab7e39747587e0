"""The numbers of device controls: TDI requests from user mode, and the private ones of a TCP/IP provider."""

from __future__ import annotations

from enum import IntEnum


class Ioctl(IntEnum):
    """Windows: IOCTL_TDI_*, IOCTL_TCP_*. Their function numbers are not the minor functions they stand for."""

    ACCEPT = 0x210000
    CONNECT = 0x210004
    DISCONNECT = 0x210008
    LISTEN = 0x21000C
    QUERY_INFORMATION = 0x210012
    RECEIVE = 0x210016
    RECEIVE_DATAGRAM = 0x21001A
    SEND = 0x21001D
    SEND_DATAGRAM = 0x210021
    SET_EVENT_HANDLER = 0x210024
    SET_INFORMATION = 0x210029
    ASSOCIATE_ADDRESS = 0x21002C
    DISASSOCIATE_ADDRESS = 0x210030
    ACTION = 0x210036
    QUERY_DIRECT_SEND_HANDLER = 0x210203
    QUERY_DIRECT_SENDDG_HANDLER = 0x210207
    TCP_QUERY_INFORMATION_EX = 0x120003
    TCP_SET_INFORMATION_EX = 0x128004


class Method(IntEnum):
    """How a device control's buffers travel: the lowest two bits of its code. Windows: METHOD_*."""

    BUFFERED = 0
    IN_DIRECT = 1
    OUT_DIRECT = 2
    NEITHER = 3

    @classmethod
    def of(cls, code: int) -> Method:
        """Of any code."""
        return cls(code & 3)


class Entity(IntEnum):
    """What an object id is about. Windows: tei_entity."""

    GENERIC = 0x000
    IF = 0x200
    AT = 0x280
    CL_NL = 0x301
    ER = 0x380
    CO_TL = 0x400
    CL_TL = 0x401


class EntityType(IntEnum):
    """What an entity turns out to be when it is asked. Windows: the value behind ENTITY_TYPE_ID."""

    CL_NL_IP = 0x303
    CL_TL_UDP = 0x403
    CO_TL_TCP = 0x404


class InfoClass(IntEnum):
    """Windows: toi_class."""

    GENERIC = 0x100
    PROTOCOL = 0x200
    IMPLEMENTATION = 0x300


class InfoType(IntEnum):
    """Windows: toi_type."""

    PROVIDER = 0x100
    ADDRESS_OBJECT = 0x200
    CONNECTION = 0x300


ENTITY_LIST_ID, ENTITY_TYPE_ID = 0, 1


class AddressOption(IntEnum):
    """Options of an address object. Windows: AO_OPTION_*."""

    TTL = 1
    MCASTTTL = 2
    MCASTIF = 3
    XSUM = 4
    IPOPTIONS = 5
    ADD_MCAST = 6
    DEL_MCAST = 7
    TOS = 8
    IP_DONTFRAGMENT = 9
    MCASTLOOP = 10
    BROADCAST = 11
    IP_HDRINCL = 12
    RCVALL = 13
    RCVALL_MCAST = 14
    RCVALL_IGMPMCAST = 15
    UNNUMBEREDIF = 16
    IP_UCASTIF = 17
    ABSORB_RTRALERT = 18
    LIMIT_BCASTS = 19
    INDEX_BIND = 20
    INDEX_MCASTIF = 21
    INDEX_ADD_MCAST = 22
    INDEX_DEL_MCAST = 23
    IFLIST = 24
    ADD_IFLIST = 25
    DEL_IFLIST = 26
    IP_PKTINFO = 27
    ADD_MCAST_SRC = 28
    DEL_MCAST_SRC = 29
    MCAST_FILTER = 30
    BLOCK_MCAST_SRC = 31
    UNBLOCK_MCAST_SRC = 32
    UDP_CKSUM_COVER = 33
    WINDOW = 34
    SCALE_CWIN = 35
    RCV_HOPLIMIT = 36
    UNBIND = 37
    PROTECT = 38


TCP_SOCKET_NODELAY = 1
"""The one connection option there is a name for."""
