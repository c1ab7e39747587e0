"""The offers of one machine's bus, under the names that each side has for them.

Its host bus knows an offer by a key, its guest by a channel id once it has heard of it, and both by what it is: its
interface and instance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID

    from emulator.daemon.offers import Offer


class BusOffers(Mapping[int, "Offer"]):
    """Every offer that stands, by the host bus's key."""

    def __init__(self) -> None:
        self._by_key: dict[int, Offer] = {}
        self._by_identity: dict[tuple[UUID, UUID], Offer] = {}
        self._by_channel: dict[int, Offer] = {}  # by the guest's channel id
        self._freed: list[Offer] = []

    def __getitem__(self, key: int) -> Offer:
        return self._by_key[key]

    def __iter__(self) -> Iterator[int]:
        return iter(self._by_key)

    def __len__(self) -> int:
        return len(self._by_key)

    # ---- the host's side

    def add(self, offer: Offer) -> None:
        """An offer that has got its key."""
        self._by_key[offer.key] = self._by_identity[offer.interface, offer.instance] = offer

    def remove(self, offer: Offer) -> bool:
        """It is taken back; whether it stood."""
        if self._by_key.pop(offer.key, None) is None:
            return False
        del self._by_identity[offer.interface, offer.instance]
        return True

    # ---- the guest's side

    def arrived(self, channel_id: int, identity: tuple[UUID, UUID]) -> None:
        """The guest has heard of an offer, which it may open now."""
        offer = self._by_identity.get(identity)
        if offer is not None:
            offer.channel_id = channel_id
            self._by_channel[channel_id] = offer
            self._freed.append(offer)

    def of_guest(self, channel_id: int) -> Offer:
        """The offer behind a channel of the guest's."""
        return self._by_channel[channel_id]

    def closed(self, channel_id: int) -> None:
        """A channel is the host's again: its ring pages are free, and the offer is for the next guest."""
        offer = self._by_channel[channel_id]
        if offer.channel is not None:
            channel, offer.channel = offer.channel, None
            channel.give_back_pages()
            channel.opening_ended()
        self._freed.append(offer)

    def released(self, channel_id: int) -> None:
        """The guest has given the id back."""
        offer = self._by_channel.pop(channel_id, None)
        if offer is not None:
            offer.channel_id = None

    def forget_guest(self) -> None:
        """The guest side starts over, and has heard of nothing."""
        self._by_channel.clear()
        for offer in self._by_key.values():
            offer.channel_id = None

    def take_freed(self) -> Iterator[Offer]:
        """Those that have come free for whoever waits, one after another; more may come free meanwhile."""
        while self._freed:
            yield self._freed.pop(0)
