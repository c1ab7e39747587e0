"""A guest that speaks single messages, and devices that answer when told: the peers of a HostBus in tests."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import TypeVar
from uuid import UUID

from emulator.vmbus import message_types as m
from emulator.vmbus.faults import BusFault, Violation
from emulator.vmbus.host import HostBus
from emulator.vmbus.host_effects import (
    AnswerIgnored,
    HostEffect,
    ModifyPlatform,
    OpenDevice,
    OpenRequest,
    PlatformChange,
    PlatformResult,
    SendMessage,
)
from emulator.vmbus.message_types import Direction, FeatureFlags, Message, Negotiated, Version
from emulator.vmbus.messages import message_number, pack_message, parse_message_untrusted
from emulator.vmbus.negotiation import BusConfig
from emulator.vmbus.offers import OfferParameters
from emulator.vmbus.synic import HvStatus

ALL = FeatureFlags(0xFF)
NO_DATA = bytes(120)
SERVABLE = FeatureFlags(0x3F)  # what a host grants without pages or pinning of its own
E = TypeVar("E")


def guid(number: int) -> UUID:
    return UUID(int=number)


def values(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def heard(effects: Iterable[HostEffect]) -> list[Message]:
    """The messages among effects, as any guest could read them."""
    return [
        parse_message_untrusted(e.payload, Negotiated(Version.V6_0, ALL), Direction.HOST_TO_GUEST)
        for e in effects
        if isinstance(e, SendMessage)
    ]


def pick(effects: Iterable[HostEffect], kind: type[E]) -> list[E]:
    return [e for e in effects if isinstance(e, kind)]


def outcome(effects: list[HostEffect]) -> list[str]:
    """Effects in the short words of the tables: see ``test_host_states``."""
    words = []
    for effect in effects:
        if isinstance(effect, Violation):
            words.append(effect.fault.name)
        elif isinstance(effect, SendMessage):
            (message,) = heard([effect])
            failed = m.is_failure(getattr(message, "status", 0))
            words.append(f">{message_number(effect.payload)}" + ("!" if failed else ""))
        elif isinstance(effect, ModifyPlatform):
            words.append(f"platform {effect.change.value}")
        elif isinstance(effect, AnswerIgnored):
            words.append("ignored")
        else:
            words.append(type(effect).__name__.lower())
    return words


def contact_bytes(
    version: int,
    features: int = 0,
    *,
    sint: int = 2,
    vtl: int = 0,
    vp: int = 0,
    info: int | None = None,
    pages: tuple[int, int] = (0, 0),
    client_id: UUID | None = m.NO_GUID,
) -> bytes:
    target = (sint | vtl << 8 | features << 32) if info is None else info
    if client_id is None:
        return pack_message(m.InitiateContact(version, vp, target, *pages))
    return pack_message(m.InitiateContact2(version, vp, target, *pages, client_id))


class Peer:
    """Everything around one HostBus. Every method returns the effects of that one input."""

    def __init__(self, config: BusConfig | None = None) -> None:
        self.bus = HostBus(config)

    def raw(self, payload: bytes, connection_id: int = 1, trusted: bool = False) -> list[HostEffect]:
        status, effects = self.bus.post_message(connection_id, payload, trusted=trusted)
        assert status is HvStatus.SUCCESS
        return effects

    def post(self, message: Message, connection_id: int = 1, trusted: bool = False) -> list[HostEffect]:
        return self.raw(pack_message(message), connection_id, trusted)

    def refused(self, message: Message) -> BusFault:
        """The one fault a message is silently dropped for."""
        (violation,) = self.post(message)
        assert isinstance(violation, Violation)
        return violation.fault

    def platform(self, effects: list[HostEffect], result: PlatformResult | None = None) -> list[HostEffect]:
        """Answer what the machine was asked; returns everything, in order."""
        everything = list(effects)
        queue = list(effects)
        while queue:
            if isinstance(queue.pop(0), ModifyPlatform):
                more = self.bus.modify_connection_done(result)
                everything += more
                queue += more
        return everything

    def contact(
        self, version: int, features: int = 0, connection_id: int | None = None, **kw: object
    ) -> list[HostEffect]:
        trusted = bool(kw.pop("trusted", False))
        payload = contact_bytes(version, features, **kw)  # type: ignore[arg-type]  # passed through by name
        port = connection_id or (4 if version >= Version.V5_0 else 1)
        return self.raw(payload, port, trusted)

    def connect(self, version: int = Version.V6_0, features: int = 0, **kw: object) -> list[Message]:
        return heard(self.platform(self.contact(version, features, **kw)))  # type: ignore[arg-type]

    def offer(self, number: int, **kw: object) -> int:
        key, _ = self.offer_effects(number, **kw)
        return key

    def offer_effects(self, number: int, **kw: object) -> tuple[int, list[HostEffect]]:
        interface, instance = kw.pop("interface", guid(number)), kw.pop("instance", guid(number))
        return self.bus.add_offer(OfferParameters(interface, instance, **kw))  # type: ignore[arg-type]

    def request_offers(self) -> list[Message]:
        return heard(self.post(m.RequestOffers()))

    def gpadl(self, channel_id: int, gpadl_id: int = 10, pages: int = 4, accept: int | None = None) -> list[HostEffect]:
        """A GPADL of whole pages in one message; ``accept`` is the offer key of the device that takes it."""
        image = values(pages * 4096, *range(0x100, 0x100 + pages))
        effects = self.post(m.GpadlHeader(channel_id, gpadl_id, len(image), 1, image))
        return effects if accept is None else self.bus.gpadl_accepted(accept, gpadl_id)

    def open_message(self, channel_id: int, gpadl_id: int = 10, open_id: int = 7, vp: int = 0, at: int = 2) -> Message:
        return m.OpenChannel(channel_id, open_id, gpadl_id, vp, at, NO_DATA)

    def begin_open(self, channel_id: int, key: int, gpadl_id: int = 10, vp: int = 0) -> OpenRequest:
        """Up to the point where the device has been asked to open."""
        self.gpadl(channel_id, gpadl_id, accept=key)
        (asked,) = self.post(self.open_message(channel_id, gpadl_id, vp=vp))
        assert isinstance(asked, OpenDevice)
        return asked.request

    def open(self, channel_id: int, key: int, gpadl_id: int = 10, vp: int = 0) -> OpenRequest:
        request = self.begin_open(channel_id, key, gpadl_id, vp)
        assert heard(self.bus.device_opened(key)) == [m.OpenChannelResult(channel_id, 7, 0)]
        return request

    def open_reserved(
        self, channel_id: int, key: int, vp: int = 5, sint: int = 3, gpadl_id: int = 10
    ) -> list[HostEffect]:
        self.gpadl(channel_id, gpadl_id, accept=key)
        self.post(m.OpenReservedChannel(channel_id, vp, sint, gpadl_id, 2))
        return self.bus.device_opened(key)

    def state_of(self, key: int) -> str:
        return next(c.state for c in self.bus.view().channels if c.offer_key == key)

    def phase(self) -> str:
        return self.bus.view().phase


def asked(effects: list[HostEffect]) -> list[PlatformChange]:
    return [e.change for e in pick(effects, ModifyPlatform)]
