"""Packets that wait for their completion, as listings show them: how many, which is the oldest, whose turn it is."""

from __future__ import annotations

from typing import Any, cast

from emulator.daemon.channel_side import ChannelSide, DirectEnd, Waiter
from emulator.vmbus.endpoint import Side

End = ChannelSide | DirectEnd | None


def uncompleted(guest: End, host: End, now: float) -> list[dict[str, Any]]:
    """For each side that owes the other completions: what it owes. ``now`` is the monotonic clock's, in seconds.

    Hosted ends know. What a direct end sent, the daemon knows once a hosted one at the other end has taken it; between
    two direct ends it knows nothing.
    """
    owed = [
        _sent(guest, Side.HOST, now) or _delivered(host, now),
        _sent(host, Side.GUEST, now) or _delivered(guest, now),
    ]
    return [each for each in owed if each is not None]


def _sent(sender: End, owner: Side, now: float) -> dict[str, Any] | None:
    """What the hosted sender waits for."""
    if not isinstance(sender, ChannelSide) or (oldest := sender.endpoint.oldest_outstanding) is None:
        return None
    transaction_id, context = oldest
    seconds = now - cast(Waiter, context).began
    return _entry(owner, sender.endpoint.outstanding, transaction_id, seconds, "sent")


def _delivered(receiver: End, now: float) -> dict[str, Any] | None:
    """What the hosted receiver has taken out of the ring of a sender that tells nobody."""
    if not isinstance(receiver, ChannelSide) or (oldest := receiver.endpoint.oldest_delivered) is None:
        return None
    transaction_id, since = oldest
    return _entry(receiver.role, receiver.endpoint.delivered, transaction_id, now - since, "delivered")


def _entry(owner: Side, packets: int, transaction_id: int, seconds: float, how: str) -> dict[str, Any]:
    text = (
        f"the {owner.value} owes {packets} completion{'s' if packets != 1 else ''}, the oldest for transaction "
        f"0x{transaction_id:X}, {how} {seconds:.1f} s ago: each packet that asks for one gets one, of type 11 and with "
        "its transaction id [4.4]"
    )
    return {
        "owed_by": owner.value,
        "packets": packets,
        "oldest_transaction_id": transaction_id,
        "oldest_seconds": round(seconds, 3),
        "text": text,
    }
