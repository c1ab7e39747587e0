"""The inside of channels for people who look for the reason why one does not move: rings, windows, queues."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from emulator.daemon.channel_side import ChannelSide
from emulator.vmbus.ring_contract import FEATURES, IN, MASK, OUT, PENDING

if TYPE_CHECKING:
    from emulator.daemon.channel_side import DirectEnd
    from emulator.daemon.channels import Channel
    from emulator.daemon.driver import Driver
    from emulator.daemon.machines import Machine
    from emulator.vmbus.ring import RingMemory


def describe_details(machine: Machine) -> list[dict[str, Any]]:
    """Every offer as ``channels`` shows it, and an open one with its rings and its two ends."""
    entries = machine.describe_channels()
    by_number = machine.channels
    for entry in entries:
        channel = by_number.get(entry.get("channel", 0))
        if channel is not None:
            entry["rings"] = _rings(channel)
            ends = [side for side in (channel.guest, channel.host) if side is not None]
            entry["ends"] = {side.role.value: _end(side) | _life(channel.driver_of(side.role)) for side in ends}
    return entries


def describe_waiting(machine: Machine) -> list[dict[str, Any]]:
    """Guests that wait for an offer nobody has made yet."""
    return [
        {
            "machine": machine.name,
            "interface": str(waiter.wanted.interface),
            "instance": str(waiter.wanted.instance) if waiter.wanted.instance is not None else None,
            "guest": str(waiter.session),
        }
        for waiter in machine.waiting
    ]


def _rings(channel: Channel) -> dict[str, Any]:
    to_host, to_guest = channel.ring_memories()
    return {"to_host": _ring(to_host), "to_guest": _ring(to_guest)}


def _ring(ring: RingMemory) -> dict[str, Any]:
    """One ring as its control page has it. Whoever maps the memory can write there, so nothing is taken for granted."""
    control = ring.control
    write_index, read_index = control[IN], control[OUT]
    is_sane = max(write_index, read_index) < ring.data_bytes
    used = (write_index - read_index) % ring.data_bytes if is_sane else None
    return {
        "data_bytes": ring.data_bytes,
        "write_index": write_index,
        "read_index": read_index,
        "used_bytes": used,
        "free_bytes": ring.data_bytes - used if used is not None else None,
        "interrupt_mask": control[MASK],
        "pending_send_bytes": control[PENDING],
        "feature_bits": control[FEATURES],
    }


def _life(driver: Driver | None) -> dict[str, Any]:
    """Where a driver's end is in its life cycle (4.3); nothing for one that has none."""
    if driver is None:
        return {}
    running = driver.life.running
    return {
        "phase": driver.life.phase.value,
        "paused": driver.life.is_paused,
        "callback": running.name.lower() if running is not None else None,
    }


def _end(side: ChannelSide | DirectEnd) -> dict[str, Any]:
    entry: dict[str, Any] = {"session": str(side.session), "outbox_bytes": side.session.outbox_bytes}
    if not isinstance(side, ChannelSide):
        return {"mode": "direct", **entry}
    endpoint = side.endpoint
    packets, byte_count = side.inbound.left
    return {
        "mode": "hosted",
        **entry,
        "queued_packets": endpoint.queued_packets,
        "outstanding": endpoint.outstanding,
        "uncompleted": endpoint.delivered,
        "quota": endpoint.transaction_quota,
        "quota_blocked": endpoint.quota_blocked,
        "stopped": endpoint.is_stopped,
        "delivered_packets": side.delivered_packets,
        # What the client may still send, and what may still be delivered to it.
        "window_in": {"packets": packets, "bytes": byte_count},
        "window_out": {"packets": side.outbound.packets, "bytes": side.outbound.bytes},
    }
