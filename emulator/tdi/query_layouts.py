"""What queries answer with, and the private device controls of a TCP/IP provider, as C declares them."""

from __future__ import annotations

from emulator.tdi.address_layouts import TRANSPORT_ADDRESS
from emulator.tdi.layout import BE32, I64, U8, U32, U64, First, Leaf, Structure, blob

TDI_PROVIDER_INFO = Structure(
    "TDI_PROVIDER_INFO",
    (
        ("Version", U32),
        ("MaxSendSize", U32),
        ("MaxConnectionUserData", U32),
        ("MaxDatagramSize", U32),
        ("ServiceFlags", U32),
        ("MinimumLookaheadData", U32),
        ("MaximumLookaheadData", U32),
        ("NumberOfResources", U32),
        ("StartTime", I64),
    ),
)
TDI_PROVIDER_RESOURCE_STATS = Structure(
    "TDI_PROVIDER_RESOURCE_STATS",
    (("ResourceId", U32), ("MaximumResourceUsed", U32), ("AverageResourceUsed", U32), ("ResourceExhausted", U32)),
)
TDI_PROVIDER_STATISTICS = Structure(
    "TDI_PROVIDER_STATISTICS",
    (
        ("Version", U32),
        ("OpenConnections", U32),
        ("ConnectionsAfterNoRetry", U32),
        ("ConnectionsAfterRetry", U32),
        ("LocalDisconnects", U32),
        ("RemoteDisconnects", U32),
        ("LinkFailures", U32),
        ("AdapterFailures", U32),
        ("SessionTimeouts", U32),
        ("CancelledConnections", U32),
        ("RemoteResourceFailures", U32),
        ("LocalResourceFailures", U32),
        ("NotFoundFailures", U32),
        ("NoListenFailures", U32),
        ("DatagramsSent", U32),
        ("DatagramBytesSent", U64),
        ("DatagramsReceived", U32),
        ("DatagramBytesReceived", U64),
        ("PacketsSent", U32),
        ("PacketsReceived", U32),
        ("DataFramesSent", U32),
        ("DataFrameBytesSent", U64),
        ("DataFramesReceived", U32),
        ("DataFrameBytesReceived", U64),
        ("DataFramesResent", U32),
        ("DataFrameBytesResent", U64),
        ("DataFramesRejected", U32),
        ("DataFrameBytesRejected", U64),
        ("ResponseTimerExpirations", U32),
        ("AckTimerExpirations", U32),
        ("MaximumSendWindow", U32),
        ("AverageSendWindow", U32),
        ("PiggybackAckQueued", U32),
        ("PiggybackAckTimeouts", U32),
        ("WastedPacketSpace", U64),
        ("WastedSpacePackets", U32),
        ("NumberOfResources", U32),
        ("ResourceStats", First(TDI_PROVIDER_RESOURCE_STATS)),
    ),
)
TDI_DATAGRAM_INFO = Structure("TDI_DATAGRAM_INFO", (("MaximumDatagramBytes", U32), ("MaximumDatagramCount", U32)))
TDI_MAX_DATAGRAM_INFO = Structure("TDI_MAX_DATAGRAM_INFO", (("MaxDatagramSize", U32),))
TDI_ADDRESS_INFO = Structure("TDI_ADDRESS_INFO", (("ActivityCount", U32), ("Address", TRANSPORT_ADDRESS)))
TDI_CONNECTION_INFO = Structure(
    "TDI_CONNECTION_INFO",
    (
        ("State", U32),
        ("Event", U32),
        ("TransmittedTsdus", U32),
        ("ReceivedTsdus", U32),
        ("TransmissionErrors", U32),
        ("ReceiveErrors", U32),
        ("Throughput", I64),
        ("Delay", I64),
        ("SendBufferSize", U32),
        ("ReceiveBufferSize", U32),
        ("Unreliable", U8),
    ),
)
TDI_ENDPOINT_INFO = Structure(
    "TDI_ENDPOINT_INFO",
    (
        ("State", U32),
        ("Event", U32),
        ("TransmittedTsdus", U32),
        ("ReceivedTsdus", U32),
        ("TransmissionErrors", U32),
        ("ReceiveErrors", U32),
        ("MinimumLookaheadData", U32),
        ("MaximumLookaheadData", U32),
        ("PriorityLevel", U32),
        ("SecurityLevel", U32),
        ("SecurityCompartment", U32),
    ),
)

TDI_ENTITY_ID = Structure("TDIEntityID", (("tei_entity", U32), ("tei_instance", U32)))
TDI_OBJECT_ID = Structure(
    "TDIObjectID", (("toi_entity", TDI_ENTITY_ID), ("toi_class", U32), ("toi_type", U32), ("toi_id", U32))
)
# Sixteen bytes of which each is part of a pointer-sized number: aligned like one, of the same size on both.
_QUERY_CONTEXT = Leaf(16, 16, opaque=True, align=1, pointer_aligned=True)
TCP_REQUEST_QUERY_INFORMATION_EX = Structure(
    "TCP_REQUEST_QUERY_INFORMATION_EX",
    (("ID", TDI_OBJECT_ID), ("Context", _QUERY_CONTEXT)),
)
TCP_REQUEST_SET_INFORMATION_EX = Structure(
    "TCP_REQUEST_SET_INFORMATION_EX", (("ID", TDI_OBJECT_ID), ("BufferSize", U32), ("Buffer", blob(1)))
)
UDP_MCAST_REQ = Structure("UDPMCastReq", (("umr_addr", BE32), ("umr_if", BE32)))
UDP_MCAST_IF_REQ = Structure("UDPMCastIFReq", (("umi_addr", BE32),))

STRUCTURES = tuple(each for each in globals().values() if isinstance(each, Structure) and each is not TRANSPORT_ADDRESS)
