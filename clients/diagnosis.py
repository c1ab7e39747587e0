"""Why a channel does not move: one sentence and what to do next, from what the daemon shows of it. Pure.

Causes are looked for from the outside in: the machine, the offer, then each direction from its receiver back to its
sender, since a receiver that does not take packets is what makes everything behind it wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Entry = Mapping[str, Any]

# The daemon leaves rings alone while so much waits for a client to read it.
OUTBOX_HIGH_BYTES = 512 * 1024


class Diagnosis(NamedTuple):
    """``cause`` is a word for programs, ``sentence`` and ``next_step`` are for people."""

    cause: str
    sentence: str
    next_step: str

    @property
    def is_stuck(self) -> bool:
        """Whether something waits."""
        return self.cause != "nothing_waits"


def diagnose_offer(entry: Entry) -> Diagnosis:
    """Why the offer or open channel of this entry (``details``) does not move."""
    if entry["state"] != "open":
        return Diagnosis(
            "not_open",
            f"No guest has it open: it is only offered, by {entry['host']}.",
            f"Start its guest: machine.open_channel({entry['interface']!r}) on {entry['machine']}.",
        )
    for receiver in ("host", "guest"):
        found = _diagnose_direction(entry, receiver)
        if found is not None:
            return found
    return Diagnosis(
        "nothing_waits",
        "Nothing waits: both rings are empty, and every packet has been completed.",
        "If a program waits nevertheless, it waits for something that has not been sent.",
    )


def diagnose_absence(machine: Entry, waiting: Iterable[Entry]) -> Diagnosis:
    """Why there is no such channel at all on a machine (an entry of ``machines``)."""
    if machine["failure"]:
        return Diagnosis(
            "machine_failed",
            f"Machine {machine['machine']} has failed: {machine['failure']}.",
            "The daemon's log has the traceback; start the daemon anew to have the machine again.",
        )
    guests = [each["guest"] for each in waiting]
    if guests:
        return Diagnosis(
            "no_offer",
            f"Nobody offers it, and {_count(len(guests), 'guest')} for it: {', '.join(guests[:3])}.",
            f"Start its host on {machine['machine']}, with the interface the guest asks for.",
        )
    return Diagnosis(
        "unknown",
        f"Nobody offers it on {machine['machine']}, and no guest waits for it.",
        f"See what there is: vmbusctl channels --machine {machine['machine']}",
    )


def _diagnose_direction(entry: Entry, receiver: str) -> Diagnosis | None:
    sender = "guest" if receiver == "host" else "host"
    end, other = entry["ends"][receiver], entry["ends"][sender]
    ring = entry["rings"][f"to_{receiver}"]
    if ring["used_bytes"] is None:
        return Diagnosis(
            "ring_damaged",
            f"The indices of the ring to the {receiver} (write {ring['write_index']}, read {ring['read_index']}) are "
            f"outside its {ring['data_bytes']} bytes: somebody who maps the memory has overwritten them.",
            "Close the channel, mend the program that writes to the memory, and open it again.",
        )
    waits = ring["used_bytes"] > 0 or other.get("outstanding") or other.get("queued_packets")
    if waits and end.get("callback"):
        return Diagnosis(
            "callback",
            f"The {receiver}, {end['session']}, runs its {end['callback']} callback: "
            "nothing is delivered until then [4.3].",
            "Return from the callback; waiting in it for a packet that cannot come holds the channel up.",
        )
    if waits and end.get("paused"):
        return Diagnosis(
            "paused",
            f"The {receiver}, {end['session']}, has paused the channel; a host starts so [4.3].",
            "Start it there: await channel.start().",
        )
    if end["mode"] == "direct":
        return _direct_receiver(receiver, end, ring, other)
    return _hosted_receiver(entry, receiver, ring, other)


def _hosted_receiver(entry: Entry, receiver: str, ring: Entry, other: Entry) -> Diagnosis | None:
    end = entry["ends"][receiver]
    waits = ring["used_bytes"] > 0
    if end["stopped"] and (waits or other.get("queued_packets")):
        return Diagnosis(
            "stopped",
            f"The {receiver} failed a packet as malformed, and nothing is delivered to it any more [R4].",
            "Close the channel and open it again.",
        )
    if waits and end["outbox_bytes"] >= OUTBOX_HIGH_BYTES:
        return Diagnosis(
            "client_does_not_read",
            f"The {receiver}, {end['session']}, does not read its socket: {end['outbox_bytes']:,} bytes wait for it.",
            "Look at what that program is doing; it does not come back to its connection.",
        )
    if waits and end["quota_blocked"]:
        return Diagnosis(
            "quota",
            f"The {receiver} has {_packets(end['uncompleted'])} and has completed none of them, as many as its quota "
            f"allows; {ring['used_bytes']:,} bytes wait in the ring [Q1].",
            "Complete packets: await packet.complete(...); only a completion lets the next one out of the ring.",
        )
    window = end["window_out"]
    if waits and min(window["packets"], window["bytes"]) <= 0:
        return Diagnosis(
            "receiver_window",
            f"The {receiver}'s program, {end['session']}, does not take the packets that were delivered to it; "
            f"{ring['used_bytes']:,} bytes wait in the ring.",
            "Iterate over the channel in that program: each packet taken makes room for another.",
        )
    if end["uncompleted"]:
        return _uncompleted(entry, receiver, end)
    return None


def _uncompleted(entry: Entry, receiver: str, end: Entry) -> Diagnosis:
    owed = [each for each in entry.get("uncompleted", ()) if each["owed_by"] == receiver]
    age = owed[0]["oldest_seconds"] if owed else None
    since = f", the oldest for {age:.1f} s" if age is not None else ""
    return Diagnosis(
        "not_completed",
        f"The {receiver}, {end['session']}, has {_packets(end['uncompleted'])} and has not completed them{since}; "
        f"whoever sent them waits.",
        "Complete each packet once: await packet.complete(...), or packet.fail() for one that is malformed.",
    )


def _direct_receiver(receiver: str, end: Entry, ring: Entry, other: Entry) -> Diagnosis | None:
    if ring["used_bytes"] > 0:
        told = (
            "its interrupt mask says that it looks by itself"
            if ring["interrupt_mask"]
            else "its interrupt mask asks for a doorbell"
        )
        return Diagnosis(
            "direct_does_not_read",
            f"The {receiver}, {end['session']}, works its rings itself and leaves {ring['used_bytes']:,} bytes unread; "
            f"{told}.",
            "Look at that program: it neither polls its ring nor waits for its doorbell now.",
        )
    if other.get("outstanding"):
        return Diagnosis(
            "not_completed",
            f"The {receiver}, {end['session']}, took everything out of the ring and has not completed "
            f"{_packets(other['outstanding'])} of the other side's.",
            "Complete each packet that asks for it, with its transaction id.",
        )
    return None


def _packets(count: int) -> str:
    return "1 packet" if count == 1 else f"{count:,} packets"


def _count(count: int, what: str) -> str:
    return f"1 {what} waits" if count == 1 else f"{count:,} {what}s wait"
