"""What a driver says of a channel before it enables it: KMCL's Init* calls, and what they refuse (4.2).

A setup is open from its making (Windows: VmbChannelAllocate) until ``seal`` (VmbChannelEnable). Every setter refuses
with INVALID_PARAMETER_1 afterwards: the documents call that "an invalid state", and the channel is the first argument.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from enum import IntFlag
from typing import Any
from uuid import UUID

from emulator.status import NtStatus, Refused
from emulator.vmbus.profile import Side

CALLBACKS_VERSION = 1
CALLBACKS_SIZE = 48  # of the structure of five pointers on x64
MOST_RING_PAGES = 4094
MOST_VTL = 2
_U16, _U32 = 0xFFFF, 0xFFFFFFFF


class InitFlags(IntFlag):
    """Windows: VMBUS_CHANNEL_INIT_FLAG_*."""

    IS_PIPE = 0x1


class ServerInitFlags(IntFlag):
    """Windows: VMBUS_SERVER_CHANNEL_INIT_FLAG_*."""

    LOOPBACK_OFFER = 0x1
    ENUMERATE_DEVICE_INTERFACE = 0x2
    OFFER_AS_PIPE = 0x4
    FORCE_NEW_CHANNEL = 0x8
    TLNPI_PROVIDER_OFFER = 0x10


@dataclass(slots=True)
class SetupValues:
    """Everything a setup holds. 0 ring pages, packet or external bytes take the daemon's defaults."""

    interface: str = ""
    instance: str = ""
    packet_bytes: int = 0
    external_bytes: int = 0
    external_mdls: int = 0
    incoming_pages: int = 0
    outgoing_pages: int = 0
    context_bytes: int = 0
    friendly_name: str = ""
    is_pipe: bool = False
    server_flags: int = 0
    mmio_megabytes: int = 0
    mmio_megabytes_optional: int = 0
    target_vtl: int = 0


_BOUNDS = {
    "packet_bytes": 524_000,
    "external_bytes": 256 << 20,
    "external_mdls": 512,
    "incoming_pages": MOST_RING_PAGES,
    "outgoing_pages": MOST_RING_PAGES,
    "context_bytes": _U32,
    "server_flags": 0x1F,
    "mmio_megabytes": _U16,
    "mmio_megabytes_optional": _U16,
    "target_vtl": MOST_VTL,
}
_MOST_TEXT = 256


class ChannelSetup:
    """The values of one channel that is being initialised. Every setter may raise Refused."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.values = SetupValues()
        self.is_sealed = False

    def seal(self) -> str:
        """The channel is enabled: nothing changes from now on. The values as JSON. Raises Refused without a target."""
        if not self.values.interface:
            text = "say which interface first: set_target on a guest, set_target_interface on a host"
            raise Refused(NtStatus.INVALID_DEVICE_STATE, text, rule="4.2")
        self.is_sealed = True
        return json.dumps(asdict(self.values))

    def set_maximum_packet_size(self, packet_bytes: int) -> None:
        """The largest buffer ever sent, in bytes. Windows: VmbChannelInitSetMaximumPacketSize. P1, P2."""
        self._check_open()
        self._require(0 < packet_bytes <= _BOUNDS["packet_bytes"], 2, f"a packet size of {packet_bytes} bytes")
        self.values.packet_bytes = packet_bytes

    def set_maximum_external_data(self, data_bytes: int, chain_length: int) -> None:
        """The most external data of an incoming packet: bytes, and MDLs. P1, P2 for the bytes, P3 for the MDLs.

        Windows: VmbChannelInitSetMaximumExternalData.
        """
        self._check_open()
        self._require(0 < data_bytes <= _BOUNDS["external_bytes"], 2, f"{data_bytes} bytes of external data")
        self._require(0 < chain_length <= _BOUNDS["external_mdls"], 3, f"a chain of {chain_length} MDLs")
        self.values.external_bytes, self.values.external_mdls = data_bytes, chain_length

    def set_client_context_size(self, context_bytes: int) -> None:
        """Bytes of driver context of each incoming packet. Windows: VmbChannelInitSetClientContextSize. P1, P2."""
        self._check_open()
        self._require(0 <= context_bytes <= _U32, 2, f"a context of {context_bytes} bytes")
        self.values.context_bytes = context_bytes

    def set_state_change_callbacks(self, version: int = CALLBACKS_VERSION, size: int = CALLBACKS_SIZE) -> None:
        """Check the structure of state callbacks. Windows: VmbChannelInitSetStateChangeCallbacks. P1, P2."""
        self._check_open()
        known = (version, size) == (CALLBACKS_VERSION, CALLBACKS_SIZE)
        self._require(known, 2, f"version {version} of {size} bytes (known: version 1 of 48)")

    def check_initialising(self) -> None:
        """For setters whose value never leaves the driver, such as its callbacks. P1 once the channel was enabled."""
        self._check_open()

    def set_friendly_name(self, name: str) -> None:
        """The channel's name in listings. Windows: VmbChannelInitSetFriendlyName. P1, P2 when it is too long."""
        self._check_open()
        self._require(len(name) <= _MOST_TEXT, 2, f"a name of {len(name)} characters")
        self.values.friendly_name = name

    def set_flags(self, flags: int) -> None:
        """InitFlags. Windows: VmbChannelInitSetFlags. P1, P2 for bits nobody knows."""
        self._check_open()
        self._require(not flags & ~0x1, 2, f"flags 0x{flags:X}")
        self.values.is_pipe = bool(flags & InitFlags.IS_PIPE)

    # ---- hosts

    def set_server_flags(self, flags: int) -> None:
        """ServerInitFlags. Windows: VmbServerChannelInitSetFlags. P1, P2."""
        self._check_side(Side.HOST)
        self._require(not flags & ~0x1F, 2, f"flags 0x{flags:X}")
        self.values.server_flags = flags

    def set_mmio_megabytes(self, megabytes: int, optional: int) -> None:
        """The offer's wish for MMIO space. Windows: VmbServerChannelInitSetMmioMegabytes.

        P1; INVALID_PARAMETER when both are 0; P2 and P3 outside 16 bits.
        """
        self._check_side(Side.HOST)
        self._require(0 <= megabytes <= _U16, 2, f"{megabytes} MiB of MMIO space")
        self._require(0 <= optional <= _U16, 3, f"{optional} MiB of optional MMIO space")
        if not megabytes and not optional:
            raise Refused(NtStatus.INVALID_PARAMETER, "both MMIO sizes are 0; do not ask for any then", rule="4.2")
        self.values.mmio_megabytes, self.values.mmio_megabytes_optional = megabytes, optional

    def set_target_interface(self, interface: UUID, instance: UUID | None = None) -> None:
        """The offer's identity; without an instance the daemon makes one. P1.

        Windows: VmbServerChannelInitSetTargetInterfaceId.
        """
        self._check_side(Side.HOST)
        self.values.interface, self.values.instance = str(interface), str(instance or "")

    def set_target_vtl(self, vtl: int) -> None:
        """Offer only to this trust level; guests here are at 0. Windows: VmbServerChannelInitSetTargetVtl. P1, P2."""
        self._check_side(Side.HOST)
        self._require(0 <= vtl <= MOST_VTL, 2, f"trust level {vtl}")
        self.values.target_vtl = vtl

    # ---- guests

    def set_ring_pages(self, incoming: int, outgoing: int) -> None:
        """Data pages of the rings, donated by the guest. Windows: VmbClientChannelInitSetRingBufferPageCount. P1-P3."""
        self._check_side(Side.GUEST)
        self._require(0 < incoming <= MOST_RING_PAGES, 2, f"{incoming} pages")
        self._require(0 < outgoing <= MOST_RING_PAGES, 3, f"{outgoing} pages")
        self.values.incoming_pages, self.values.outgoing_pages = incoming, outgoing

    def set_target(self, interface: UUID, instance: UUID | None = None) -> None:
        """Which offer to take: this one, or any of the interface. Windows: VmbClientChannelInitSetTargetPnp. P1."""
        self._check_side(Side.GUEST)
        self.values.interface, self.values.instance = str(interface), str(instance or "")

    # ---- refusals

    def _check_open(self) -> None:
        if self.is_sealed:
            text = "the channel has been enabled; say this between making it and enabling it"
            raise Refused(NtStatus.INVALID_PARAMETER_1, text, rule="4.2")

    def _check_side(self, side: Side) -> None:
        if self.side is not side:
            text = f"this call is for a {side.value}'s channel, and this is a {self.side.value}'s"
            raise Refused(NtStatus.INVALID_PARAMETER_1, text, rule="4.2")
        self._check_open()

    @staticmethod
    def _require(condition: bool, argument: int, what: str) -> None:
        if not condition:
            status = NtStatus[f"INVALID_PARAMETER_{argument}"]
            raise Refused(status, f"{what}: outside what a channel can have", rule="4.2")


def parse_setup_untrusted(document: str) -> SetupValues:
    """The values of a setup as its client sent them. Raises Refused for anything else."""
    try:
        found: Any = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise _bad(f"not JSON: {type(error).__name__}") from None
    if not isinstance(found, dict):
        raise _bad("not an object")
    values = SetupValues()
    for field in fields(SetupValues):
        default = getattr(values, field.name)
        value = found.pop(field.name, default)
        if type(value) is not type(default):
            raise _bad(f"{field.name} must be {type(default).__name__}")
        if isinstance(value, str) and len(value) > _MOST_TEXT:
            raise _bad(f"{field.name} is longer than {_MOST_TEXT} characters")
        if type(value) is int and not 0 <= value <= _BOUNDS[field.name]:
            raise _bad(f"{field.name} is 0 to {_BOUNDS[field.name]}, not {value}")
        setattr(values, field.name, value)
    if found:
        raise _bad(f"nobody knows {', '.join(sorted(map(repr, found)))[:200]}")
    for name in ("interface", "instance"):
        text = getattr(values, name)
        try:
            if text or name == "interface":
                setattr(values, name, str(UUID(text)))
        except ValueError:
            raise _bad(f"{name} is no GUID") from None
    return values


def _bad(problem: str) -> Refused:
    return Refused(NtStatus.INVALID_PARAMETER, f"the channel's setup cannot be used: {problem}")
