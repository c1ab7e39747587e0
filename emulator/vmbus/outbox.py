"""Messages on their way to the guest: strict order, and a place to wait while the guest does not read (rule 2.5).

A message that finds no room waits, and then so does every later one. While the connection is paused all of them wait.
Messages to a target the guest chose for one answer (a refused contact, reserved channels) never wait: they are sent or
dropped, and a pause does not hold them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from emulator.vmbus.host_effects import HostEffect, MessageDropped, SendMessage, SynicTarget
from emulator.vmbus.message_types import Message
from emulator.vmbus.messages import pack_message
from emulator.vmbus.synic import VMBUS_SINT


@dataclass(slots=True)
class OutboxState:
    """What is kept: the waiting payloads, who gets them, and what is on the way to each target."""

    waiting: list[bytes] = field(default_factory=list)
    target_vp: int = 0
    is_paused: bool = False
    ahead_of_pause: int = 0  # waiting messages that came before the pause, and still go
    in_flight: dict[SynicTarget, int] = field(default_factory=dict)


class Outbox:
    """The one way out. Appends its effects to the list it is given.

    ``window`` is how many messages may be on the way to one (vp, sint) before ``delivered`` reports one gone; None when
    every message arrives at once.
    """

    def __init__(self, state: OutboxState, effects: list[HostEffect], window: int | None) -> None:
        self.state = state
        self._effects = effects
        self._window = window

    @property
    def backlog(self) -> int:
        """Messages waiting because the guest does not take them (not because it paused)."""
        return 0 if self.state.is_paused else len(self.state.waiting)

    def send(self, message: Message) -> None:
        """To the guest's message target, now or in its turn."""
        self.state.waiting.append(pack_message(message))
        self.flush()  # from the front, so the order holds even when the target has moved to another processor

    def send_to(self, target: SynicTarget, message: Message) -> None:
        """To a target of the guest's choosing, now or never."""
        payload = pack_message(message)
        if self._has_room(target):
            self._emit(target, payload)
        else:
            self._effects.append(MessageDropped(target.vp, target.sint, payload))

    def delivered(self, target: SynicTarget) -> None:
        """One message reached its slot and was taken."""
        left = self.state.in_flight.pop(target, 0) - 1
        if left > 0:
            self.state.in_flight[target] = left
        self.flush()

    def pause(self) -> None:
        """Keep everything from now on; what waits already still goes."""
        self.state.is_paused, self.state.ahead_of_pause = True, len(self.state.waiting)

    def resume(self) -> None:
        """Let what waited flow."""
        self.state.is_paused, self.state.ahead_of_pause = False, 0
        self.flush()

    def clear(self) -> None:
        """Forget what waits (the machine is reset)."""
        self.state.waiting.clear()
        self.state.in_flight.clear()
        self.state.is_paused, self.state.ahead_of_pause = False, 0

    def flush(self) -> None:
        """Send what may go."""
        state = self.state
        target = SynicTarget(state.target_vp, VMBUS_SINT)
        sent, limit = 0, state.ahead_of_pause if state.is_paused else len(state.waiting)
        while sent < limit and self._has_room(target):
            self._emit(target, state.waiting[sent])
            sent += 1
        del state.waiting[:sent]
        state.ahead_of_pause = max(0, state.ahead_of_pause - sent)

    def _has_room(self, target: SynicTarget) -> bool:
        return self._window is None or self.state.in_flight.get(target, 0) < self._window

    def _emit(self, target: SynicTarget, payload: bytes) -> None:
        if self._window is not None:
            self.state.in_flight[target] = self.state.in_flight.get(target, 0) + 1
        self._effects.append(SendMessage(target.vp, target.sint, payload))
