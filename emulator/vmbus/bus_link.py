"""A GuestBus and a HostBus on one wire: carries messages between them until both are quiet."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from emulator.vmbus.guest import GuestBus
from emulator.vmbus.guest_effects import GuestEffect, PostMessage
from emulator.vmbus.host import HostBus
from emulator.vmbus.host_effects import HostEffect, ModifyPlatform, SendMessage
from emulator.vmbus.synic import VMBUS_SINT, HvStatus

Effect = HostEffect | GuestEffect


class BusLink:
    """The wire between the two buses of one machine.

    ``answers_platform``: requests to the machine around the host bus are answered with success at once, as suits a
    machine that has nothing to prepare. Messages the host has no room for wait here, in order.
    """

    def __init__(self, host: HostBus, guest: GuestBus, answers_platform: bool = True) -> None:
        self.host, self.guest = host, guest
        self._answers_platform = answers_platform
        self._posts: list[PostMessage] = []  # a list: small when empty, as it nearly always is

    @property
    def waiting_posts(self) -> int:
        """Messages the host had no room for."""
        return len(self._posts)

    def settle(self, effects: Iterable[Effect]) -> list[Effect]:
        """Carry every message among these effects, and all that follow; what is left is for the devices and programs.

        Order is kept on each way, and messages to the guest go before further posts, so that a full host empties.
        """
        rest: list[Effect] = []
        arriving: deque[Effect] = deque(effects)
        while True:
            if arriving:
                self._carry(arriving.popleft(), arriving, rest)
            elif not self._posts or not self._post_one(arriving):
                return rest

    def _carry(self, effect: Effect, arriving: deque[Effect], rest: list[Effect]) -> None:
        if isinstance(effect, PostMessage):
            self._posts.append(effect)
        elif isinstance(effect, SendMessage) and effect.sint == VMBUS_SINT:
            arriving.extend(self.guest.message_arrived(effect.payload))
            if self.host.config.message_window is not None:
                arriving.extend(self.host.message_delivered(effect.vp, effect.sint))
        elif isinstance(effect, ModifyPlatform) and self._answers_platform:
            arriving.extend(self.host.modify_connection_done())
        else:
            rest.append(effect)

    def _post_one(self, arriving: deque[Effect]) -> bool:
        post = self._posts[0]
        status, effects = self.host.post_message(post.connection_id, post.payload)
        if status is HvStatus.INSUFFICIENT_BUFFERS:
            return False
        del self._posts[0]
        arriving.extend(effects)
        if status is not HvStatus.SUCCESS:
            arriving.extend(self.guest.post_failed(post.connection_id, post.payload, status))
        return True
