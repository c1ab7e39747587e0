"""A channel as a driver has it: its state, its callbacks, what it has sent and what it has not completed. Pure.

The life cycle itself runs in the daemon, which has the control conversation; it calls back by request, one at a time,
and goes on with the answer. What this end keeps: packets sent while there is no open channel, which go out when Opened
has returned; packets that arrived and must not be seen while the channel is paused; how many were taken and not
completed, since a pause waits for those.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from emulator.status import NtStatus
from emulator.vmbus.channel_setup import ChannelSetup

StateCallback = Callable[[Any], Awaitable[Any] | Any]


@dataclass(frozen=True)
class ChannelCallbacks:
    """What KMCL calls, one at a time. Each gets the channel; plain functions, or async ones in the trio face.

    Windows: VMB_CHANNEL_STATE_CHANGE_CALLBACKS. ``opened`` returns a status (None is success), and an error rolls the
    channel back; raising Refused or RequestFailed is the same. ``pnp_failure`` gets (channel, status): an offer was
    there and could not be opened (EvtVmbChannelPnpFailure).
    """

    opened: StateCallback | None = None
    closed: StateCallback | None = None
    started: StateCallback | None = None
    post_started: StateCallback | None = None
    suspend: StateCallback | None = None
    pnp_failure: Callable[[Any, NtStatus], Awaitable[Any] | Any] | None = None


class DriverPhase(Enum):
    """The first of the two axes (4.3), as this client was told last; the second is ``is_paused``."""

    DISABLED = "disabled"
    ENABLED = "enabled"
    OPEN = "open"


class DriverState:
    """One driver channel of this client."""

    def __init__(self, setup: ChannelSetup, callbacks: ChannelCallbacks) -> None:
        self.setup = setup
        self.callbacks = callbacks
        self.number = 0
        self.phase = DriverPhase.DISABLED
        self.is_paused = True
        self.items: deque[Any] = deque()
        self.waiter: Any = None
