"""Offers: the channels that hosts have for guests, open or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from emulator.daemon.channel_side import Grant
from emulator.daemon.violations import Tally
from emulator.status import NtStatus, Refused
from emulator.vmbus.offers import OfferParameters, PipeMode
from emulator.wire.codec import encode_notification
from emulator.wire.schema import OFFER_RESCINDED

if TYPE_CHECKING:
    from emulator.daemon.channels import Channel
    from emulator.daemon.driver_host import HostDriver
    from emulator.daemon.machines import Machine
    from emulator.daemon.session import Session


class Offer:
    """A channel that a host's session offers on a machine; open to one guest at a time."""

    def __init__(
        self, machine: Machine, session: Session, interface: UUID, instance: UUID, pipe: bool, grant: Grant | None
    ) -> None:
        self.machine = machine
        self.session = session
        self.interface = interface
        self.instance = instance
        self.pipe = pipe
        self.grant = grant  # None for a host that works its rings itself
        self.number = 0  # in the host's session
        self.key = 0  # on the host bus
        self.channel_id: int | None = None  # on the guest bus, once it has been offered there
        self.channel: Channel | None = None
        self.mistakes = Tally()  # of its guests, since the last bus guest came
        self.driver: HostDriver | None = None  # of a host with a life cycle
        self.mmio = 0, 0  # address and bytes

    def parameters(self, *, uses_monitor: bool) -> OfferParameters:
        """What the bus says of it."""
        pipe = PipeMode.MESSAGE if self.pipe else None
        offered = OfferParameters(self.interface, self.instance, pipe=pipe, uses_monitor=uses_monitor)
        return offered if self.driver is None else self.driver.offered(offered)

    def __str__(self) -> str:
        return f"channel {self.interface} (instance {self.instance}) of machine {self.machine.name}"

    def tell_rescinded(self, reason: str) -> None:
        """The daemon took it away: its host hears of it. A driver's end hears by its callbacks."""
        if self.driver is None:
            told = encode_notification(OFFER_RESCINDED, self.number, int(NtStatus.DEVICE_REMOVED), reason[:1000])
            self.session.put(told)

    def describe(self) -> dict[str, Any]:
        """What ``vmbusctl channels`` shows of it."""
        entry: dict[str, Any] = {
            "machine": self.machine.name,
            "interface": str(self.interface),
            "instance": str(self.instance),
            "state": "open" if self.channel is not None else "offered",
            "pipe": self.pipe,
            "name": self.driver.values.friendly_name if self.driver is not None else "",
            "host": str(self.session),
            "host_mode": "hosted" if self.grant is not None else "direct",
            "violations": self.mistakes.latest(),
        }
        if self.channel is not None:
            entry |= self.channel.describe()
        return entry


def refuse_if_open(offer: Offer) -> None:
    """Refuse a second opening, and say who has the first."""
    if offer.channel is not None:
        holder = offer.channel.holder
        raise Refused(
            NtStatus.INVALID_DEVICE_STATE,
            f"{offer} is already open: {holder} has it; close it there, or offer another instance",
        )
