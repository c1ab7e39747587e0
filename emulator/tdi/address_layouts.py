"""The address structures as C declares them. Lists of them are packed and parsed by ``structures``.

Two families: the open-ended lists are aligned as usual, the concrete addresses are packed to single bytes.
"""

from __future__ import annotations

from emulator.tdi.layout import BE16, BE32, I32, PTR, U8, U16, U32, First, Structure, blob

TA_ADDRESS = Structure("TA_ADDRESS", (("AddressLength", U16), ("AddressType", U16), ("Address", blob(1))))
TRANSPORT_ADDRESS = Structure("TRANSPORT_ADDRESS", (("TAAddressCount", I32), ("Address", First(TA_ADDRESS))))

TDI_ADDRESS_IP = Structure("TDI_ADDRESS_IP", (("sin_port", BE16), ("in_addr", BE32), ("sin_zero", blob(8))), packing=1)
TDI_ADDRESS_IP6 = Structure(
    "TDI_ADDRESS_IP6",
    (("sin6_port", BE16), ("sin6_flowinfo", BE32), ("sin6_addr", blob(16)), ("sin6_scope_id", U32)),
    packing=1,
)
TDI_ADDRESS_NETBIOS = Structure("TDI_ADDRESS_NETBIOS", (("NetbiosNameType", U16), ("NetbiosName", blob(16))), packing=1)
TDI_ADDRESS_NETBIOS_EX = Structure(
    "TDI_ADDRESS_NETBIOS_EX", (("EndpointName", blob(16)), ("NetbiosAddress", TDI_ADDRESS_NETBIOS)), packing=1
)
UNICODE_STRING = Structure("UNICODE_STRING", (("Length", U16), ("MaximumLength", U16), ("Buffer", PTR)))
TDI_ADDRESS_NETBIOS_UNICODE_EX = Structure(
    "TDI_ADDRESS_NETBIOS_UNICODE_EX",
    (
        ("NetbiosNameType", U16),
        ("NameBufferType", I32),
        ("EndpointName", UNICODE_STRING),
        ("RemoteName", UNICODE_STRING),
        ("EndpointBuffer", blob(34)),
        ("RemoteNameBuffer", blob(2)),
    ),
    packing=1,
)
TDI_ADDRESS_IPX = Structure(
    "TDI_ADDRESS_IPX", (("NetworkAddress", BE32), ("NodeAddress", blob(6)), ("Socket", BE16)), packing=1
)
TDI_ADDRESS_8022 = Structure("TDI_ADDRESS_8022", (("MACAddress", blob(6)),), packing=1)
TDI_ADDRESS_APPLETALK = Structure("TDI_ADDRESS_APPLETALK", (("Network", U16), ("Node", U8), ("Socket", U8)), packing=1)
TDI_ADDRESS_VNS = Structure(
    "TDI_ADDRESS_VNS",
    (("net_address", blob(4)), ("subnet_addr", blob(2)), ("port", blob(2)), ("hops", U8), ("filler", blob(5))),
    packing=1,
)


def _list_of_one(name: str, address: Structure) -> Structure:
    entry = Structure("", (("AddressLength", U16), ("AddressType", U16), ("Address", First(address))), packing=1)
    return Structure(name, (("TAAddressCount", I32), ("Address", First(entry))), packing=1)


TA_IP_ADDRESS = _list_of_one("TA_IP_ADDRESS", TDI_ADDRESS_IP)
TA_IP6_ADDRESS = _list_of_one("TA_IP6_ADDRESS", TDI_ADDRESS_IP6)
TA_NETBIOS_ADDRESS = _list_of_one("TA_NETBIOS_ADDRESS", TDI_ADDRESS_NETBIOS)
TA_IPX_ADDRESS = _list_of_one("TA_IPX_ADDRESS", TDI_ADDRESS_IPX)

STRUCTURES = tuple(each for each in globals().values() if isinstance(each, Structure))
