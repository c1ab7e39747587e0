"""What a driver channel may send as it is now: before there is a ring, by its setup and the machine's profile alone."""

from __future__ import annotations

from clients.driver import DriverState
from clients.protocol import ClientProtocol
from emulator.vmbus.channel_setup import ChannelSetup
from emulator.vmbus.profile import EndpointLimits
from emulator.vmbus.send_rules import SendRules

# More than any ring: before there is one, its size is nobody's fault.
_NO_RING_YET = 1 << 40


class CurrentRules:
    """The argument checks of one channel. ``page_count`` is the size of the machine's memory."""

    def __init__(self, protocol: ClientProtocol, state: DriverState, setup: ChannelSetup, page_count: int) -> None:
        self._protocol = protocol
        self._state = state
        self._setup = setup
        self._page_count = page_count
        self._made: tuple[object, SendRules] | None = None

    def current(self) -> SendRules:
        """Made again after an opening, and every time while there was none."""
        state = self._state
        known_by = state.largest, state.ring_bytes, state.pipe
        if self._made is None or self._made[0] != known_by or not state.ring_bytes:
            self._made = known_by, self._make()
        return self._made[1]

    def _make(self) -> SendRules:
        state, values = self._state, self._setup.values
        profile = self._protocol.profile_of(state.machine)
        packet, external, mdls = state.largest
        limits = EndpointLimits(
            max_packet_bytes=packet or values.packet_bytes or profile.limits.max_packet_bytes,
            max_external_bytes=external or values.external_bytes or profile.limits.max_external_bytes,
            max_external_chain=mdls or values.external_mdls or profile.limits.max_external_chain,
        )
        return SendRules(
            state.side,
            profile.kmcl,
            limits,
            is_pipe=state.pipe or values.is_pipe,
            page_count=self._page_count,
            largest_cost=state.ring_bytes - 16 if state.ring_bytes else _NO_RING_YET,
        )
