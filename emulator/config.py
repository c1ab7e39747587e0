"""Configuration: frozen models with every default, and every limit with the reason for it.

``config_file.load`` reads one from TOML. The comment above a field is its documentation, which the printed default and
the JSON Schema show.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator, model_validator

from emulator.choice import ChoiceError, chosen
from emulator.choices_document import PROFILES
from emulator.config_section import Section
from emulator.limits_config import LimitsConfig as LimitsConfig
from emulator.limits_config import QuotaConfig as QuotaConfig
from emulator.memory import PAGE_SIZE
from emulator.segment_config import SegmentConfig
from emulator.status import Misuse
from emulator.tdi.connection_profile import ConnectionProfile
from emulator.tdi.profile import ProviderProfile
from emulator.vmbus import shared_bits
from emulator.vmbus.message_types import Version
from emulator.vmbus.profile import ChannelProfile, EndpointLimits, KmclProfile

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$")]


HostAddresses = Annotated[
    tuple[str, ...], AfterValidator(lambda value: tuple(str(ipaddress.ip_address(each)) for each in value))
]
Networks = Annotated[
    tuple[str, ...], AfterValidator(lambda value: tuple(str(ipaddress.ip_network(each)) for each in value))
]


# Users by name or number, groups as "@name", keys of remote clients as "key:name", or "*" for every user of this host.
Who = tuple[str | int, ...]


class AccessConfig(Section):
    """Who may act on a machine; root and the daemon's own user always may. The socket's mode stands before all this."""

    # Open its channels, or be its bus guest.
    guest: Who = ("*",)
    # Offer channels on it.
    host: Who = ("*",)
    # Send and receive datagrams, connect, and ask its network devices.
    datagram: Who = ("*",)


class QuicConfig(Section):
    """Clients over UDP (QUIC), each with a key of its own; needs the extra [quic]. docs/remote-attach.md."""

    # The UDP port; off unless there is one. 0 takes a free one.
    port: int | None = Field(default=None, ge=0, le=65535)
    # Reaching the daemon from outside this machine must be a decision: an address of the host's, 0.0.0.0 or ::.
    host: str = "127.0.0.1"
    # The keys directory that `vmbusctl keys` made.
    keys: Path | None = None
    # A client of which nothing is heard for so long is gone, and what it held is closed.
    idle_seconds: float = Field(default=20.0, ge=1, le=600)
    # So often an idle client is asked whether it is there, which also keeps open what lies between; 0 never.
    keep_alive_seconds: float = Field(default=5.0, ge=0)
    # A handshake that is not done by then is given up, and so many may be under way.
    handshake_seconds: float = Field(default=5.0, gt=0)
    handshakes: int = Field(default=128, ge=1)
    # New connections of one source address in a second; twice as many at once.
    connections_per_second: float = Field(default=20.0, gt=0)
    # What one packet holds, around it IP and UDP come; every path carries 1200.
    packet_bytes: int = Field(default=1200, ge=1200, le=65_000)

    @field_validator("host")
    @classmethod
    def _is_address(cls, value: str) -> str:
        return str(ipaddress.ip_address(value))

    @model_validator(mode="after")
    def _has_keys(self) -> QuicConfig:
        if self.port is not None and self.keys is None:
            raise ValueError("keys: must name a keys directory; make one with: vmbusctl keys --directory DIR init")
        return self


class ListenConfig(Section):
    """The Unix socket clients attach to, where no service manager opens it, and clients over UDP."""

    # Who can connect at all, in octal: the daemon's own user. 0660 lets a group in, 0666 everybody.
    socket_mode: str = Field(default="0600", pattern=r"^0[0-7]{3}$")
    # A group to give it to, by name or number; the daemon has to be in it, or be root.
    socket_group: str | int | None = None
    quic: QuicConfig = QuicConfig()


class DaemonAccessConfig(Section):
    """Who may look after the daemon itself."""

    # Create and remove machines, change segments and the log's level, see everything.
    admin: Who = ()


class MachineConfig(Section):
    """One simulated machine."""

    # Enough for a few channels and a megabyte or two of buffers; pages cost nothing until they are touched.
    memory_bytes: int = Field(default=256 * 1024 * 1024, ge=64 * PAGE_SIZE, le=16 * 1024**3, multiple_of=PAGE_SIZE)
    # The newest VMBus version its host bus accepts; a guest that starts higher steps down to it.
    vmbus_version: Literal["0.13", "1.1", "2.4", "3.0", "4.0", "4.1", "5.0", "5.1", "5.2", "5.3", "6.0"] = "6.0"
    # Its IP address on each segment it joins.
    segments: dict[Name, str] = Field(default_factory=dict)
    # Host addresses it may bind, where they differ from those of [udp].
    bind: HostAddresses | None = None
    # Networks its datagrams and connections may go to, where they differ from those of [udp].
    reach: Networks | None = None
    # Which of the [profiles] it behaves by; docs/choices.md lists what there is to choose.
    profile: Name | None = None
    # Whether misuse of driver channels is reported to the program, with the places in it.
    verifier: bool = False
    # What a hypervisor would write for a bus guest. All three are off because every doorbell then passes through the
    # daemon, a direct host's too, and because `bus.event` and a descriptor tell a guest the same without them.
    # Below version 2.4: set the bits of channels in the guest's interrupt page, look there for the guest's own, and
    # offer channels as not dedicated, which is what makes a guest set them.
    interrupt_page: bool = False
    # Set event flags in the page a guest names for a processor (`bus.event_flags_page`).
    event_flags_page: bool = False
    # Give channels monitor ids where the guest has monitor pages; otherwise each offer says 0xFF. Nobody looks into the
    # pages: such a guest has to ring, too.
    monitor_ids: bool = False
    # Who may be what on it.
    access: AccessConfig = AccessConfig()
    # How much of it those may have.
    quota: QuotaConfig = QuotaConfig()

    @field_validator("interrupt_page", "event_flags_page")
    @classmethod
    def _bits_are_safe(cls, value: bool) -> bool:
        if value and not shared_bits.BITS_ARE_ATOMIC:
            raise ValueError(
                "bits that daemon and guest change at once need the compiled ring, which was not built here: plain "
                "Python could undo what the guest does meanwhile; install again with a C compiler, or leave this false"
            )
        return value

    @property
    def version(self) -> Version:
        """``vmbus_version`` as the bus has it."""
        major, minor = self.vmbus_version.split(".")
        return Version(int(major) << 16 | int(minor))

    @field_validator("segments")
    @classmethod
    def _ip_addresses(cls, value: dict[str, str]) -> dict[str, str]:
        return {segment: str(ipaddress.ip_address(address)) for segment, address in value.items()}


class ProfileConfig(Section):
    """Other answers than the defaults where the documents are silent: what is named here, and the defaults else."""

    # What the ends of channels do.
    kmcl: dict[str, Any] = Field(default_factory=dict)
    # How large channels are; what is not named here follows [channels] and [limits]. Outgoing is guest to host.
    channel: dict[str, Any] = Field(default_factory=dict)
    # What the device over real UDP sockets does; what is not named here follows [udp] and [limits].
    tdi: dict[str, Any] = Field(default_factory=dict)
    # What connections over real TCP sockets do.
    connections: dict[str, Any] = Field(default_factory=dict)

    @field_validator("kmcl", "channel", "tdi", "connections")
    @classmethod
    def _choices(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        kind, _ = PROFILES[info.field_name or ""]
        try:
            chosen(kind, value)
        except ChoiceError as error:
            raise ValueError("\n".join(f"{name}: {text}" for name, text in error.problems)) from None
        except Misuse as error:
            raise ValueError(str(error)) from None
        return value


class UdpConfig(Section):
    """What real UDP sockets may do; where TCP sockets may be bound and reach is the same."""

    # Host addresses machines may bind. Reaching outside this machine must be a decision.
    bind: HostAddresses = ("127.0.0.1", "::1")
    # Networks their datagrams and connections may go to.
    reach: Networks = ("127.0.0.0/8", "::1/128")
    send_timeout_seconds: float = Field(default=1.0, gt=0)
    # What the kernel keeps for a socket until it is read, as far as net.core.rmem_max allows: a burst of a few
    # thousand small datagrams. It takes memory only while it is used.
    receive_buffer_bytes: int = Field(default=4 * 1024 * 1024, ge=4096, le=1024**3)


class MetricsConfig(Section):
    """Figures and health over HTTP, for a collector on the same host."""

    # Off unless somebody asks: a Unix socket ("unix:/run/vmbusd/metrics.sock"), or a loopback address and port.
    listen: str | None = None
    # Machines with figures of their own; the others are added up, so that a scrape stays small.
    machines: int = Field(default=200, ge=0, le=10_000)

    @property
    def address(self) -> Path | tuple[str, int] | None:
        """``listen`` taken apart."""
        if self.listen is None:
            return None
        if self.listen.startswith("unix:"):
            return Path(self.listen.removeprefix("unix:"))
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    @field_validator("listen")
    @classmethod
    def _is_local(cls, value: str | None) -> str | None:
        if value is None:
            return value
        if value.startswith("unix:/"):
            return value
        host, _, port = value.rpartition(":")
        try:
            is_loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
        except ValueError:
            is_loopback = False
        if not is_loopback or not port.isdecimal() or int(port) > 65535:
            text = "a loopback address with a port, such as 127.0.0.1:9464, or unix:/PATH"
            raise ValueError(f"{value!r} cannot be listened on; it must be {text}")
        return value


class ChannelConfig(Section):
    """What the KMCL documents leave unpublished, for every channel; a guest and a host send within these."""

    # KMCL: VmbChannelInitSetMaximumPacketSize.
    packet_bytes: int = Field(default=4096, ge=1, le=524_000)
    # KMCL: VmbChannelInitSetMaximumExternalData, in bytes and in MDLs.
    external_bytes: int = Field(default=1024 * 1024, ge=1, le=256 * 1024 * 1024)
    external_mdls: int = Field(default=32, ge=1, le=512)


def _default_machines() -> dict[str, MachineConfig]:
    return {f"vm{n}": MachineConfig(segments={"lan": f"10.0.0.{n}"}) for n in (1, 2)}


class Config(Section):
    """The whole configuration. The default is two machines, vm1 and vm2, on one segment, lan."""

    machines: dict[Name, MachineConfig] = Field(default_factory=_default_machines)
    segments: dict[Name, SegmentConfig] = Field(default_factory=lambda: {"lan": SegmentConfig()})
    limits: LimitsConfig = LimitsConfig()
    udp: UdpConfig = UdpConfig()
    channels: ChannelConfig = ChannelConfig()
    metrics: MetricsConfig = MetricsConfig()
    access: DaemonAccessConfig = DaemonAccessConfig()
    listen: ListenConfig = ListenConfig()
    profiles: dict[Name, ProfileConfig] = Field(default_factory=dict)

    def channel_profile(self, machine: MachineConfig) -> ChannelProfile:
        """What the channel ends of a machine are made with."""
        settings = self._profile_of(machine)
        limits: dict[str, Any] = {
            "max_packet_bytes": self.channels.packet_bytes,
            "max_external_bytes": self.channels.external_bytes,
            "max_external_chain": self.channels.external_mdls,
            "outgoing_ring_pages": self.limits.default_ring_pages,
            "incoming_ring_pages": self.limits.default_ring_pages,
            "transaction_quota": self.limits.outstanding_packets,
        }
        return ChannelProfile(chosen(KmclProfile, settings.kmcl), chosen(EndpointLimits, limits | settings.channel))

    def bindable(self, machine: MachineConfig) -> tuple[str, ...]:
        """The host addresses a machine may bind."""
        return self.udp.bind if machine.bind is None else machine.bind

    def reachable(self, machine: MachineConfig) -> tuple[str, ...]:
        """The networks a machine may send to."""
        return self.udp.reach if machine.reach is None else machine.reach

    def udp_profile(self, machine: MachineConfig) -> ProviderProfile:
        """How a machine's device over real UDP sockets behaves."""
        defaults: dict[str, Any] = {
            "max_queued_datagrams": self.limits.datagram_window_packets,
            "send_timeout_seconds": self.udp.send_timeout_seconds,
            "max_backlog_bytes": self.limits.datagram_backlog_bytes,
        }
        return chosen(ProviderProfile, defaults | self._profile_of(machine).tdi)

    def tcp_profile(self, machine: MachineConfig) -> ConnectionProfile:
        """How a machine's connections over real TCP sockets behave."""
        return chosen(ConnectionProfile, self._profile_of(machine).connections)

    def _profile_of(self, machine: MachineConfig) -> ProfileConfig:
        return ProfileConfig() if machine.profile is None else self.profiles[machine.profile]

    @model_validator(mode="after")
    def _names_lead_somewhere(self) -> Config:
        problems = [*self._profile_problems(), *self._segment_problems()]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _profile_problems(self) -> Iterator[str]:
        known = ", ".join(sorted(self.profiles)) or "none"
        for machine, settings in self.machines.items():
            if settings.profile is not None and settings.profile not in self.profiles:
                yield f"machines.{machine}.profile: there is no profile {settings.profile!r}; defined are: {known}"

    def _segment_problems(self) -> list[str]:
        problems: list[str] = []
        for name in ("udp", "tcp"):
            if name in self.segments:
                text = f"the name '{name}' stands for real {name.upper()} sockets; call the segment something else"
                problems.append(f"segments.{name}: {text}")
        taken: dict[tuple[str, str], str] = {}
        for machine, settings in self.machines.items():
            for segment, address in settings.segments.items():
                where = f"machines.{machine}.segments.{segment}"
                if segment not in self.segments:
                    known = ", ".join(sorted(self.segments)) or "none"
                    problems.append(f"{where}: there is no segment {segment!r}; defined are: {known}")
                elif ipaddress.ip_address(address) not in ipaddress.ip_network(self.segments[segment].subnet):
                    problems.append(
                        f"{where}: {address} is not in the segment's subnet {self.segments[segment].subnet}"
                    )
                elif (segment, address) in taken:
                    problems.append(f"{where}: {address} already belongs to machine {taken[segment, address]!r}")
                taken.setdefault((segment, address), machine)
        for segment, network in self.segments.items():
            machines = {machine for machine, settings in self.machines.items() if segment in settings.segments}
            problems += [f"segments.{segment}.{each}" for each in network.problems(machines, self.udp.bind)]
        return problems
