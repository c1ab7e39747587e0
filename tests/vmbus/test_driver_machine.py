"""Random calls, legal and not, of two drivers over the pure cores: what must hold whatever they do."""

from __future__ import annotations

import gc
import re
from contextlib import suppress

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from emulator.status import NtStatus, Refused
from emulator.vmbus.life_cycle import Callback, Phase
from tests.vmbus.driver_model import Driver, Link

IS_HOST = st.booleans()
INDEX = st.integers(0, 7)
# Opened; then Started and PostStarted, and Suspend before the next Started; Closed. Or Opened alone, which failed. And
# behind all those, perhaps, one that is not over.
LIVES = re.compile(r"(O((SPU)*C)?)*(O(SPU)*(SP?)?)?")
LETTERS = {
    Callback.OPENED: "O",
    Callback.STARTED: "S",
    Callback.POST_STARTED: "P",
    Callback.SUSPEND: "U",
    Callback.CLOSED: "C",
}


class TwoDrivers(RuleBasedStateMachine):
    """Every rule is a call of one of them, or the passing of a packet or a callback."""

    @initialize()
    def begin(self) -> None:
        self.link = Link()

    def of(self, is_host: bool) -> Driver:
        return self.link.host if is_host else self.link.guest

    # ---- the life cycle: legal or refused, never anything else

    @rule(is_host=IS_HOST)
    def enable(self, is_host: bool) -> None:
        driver = self.of(is_host)
        was = driver.life.phase
        try:
            driver.ask(driver.life.enable)
        except Refused:
            assert was is not Phase.DISABLED
        self.link.meet()

    @rule(is_host=IS_HOST)
    def disable(self, is_host: bool) -> None:
        driver = self.of(is_host)
        driver.ask(driver.life.disable)

    @rule(is_host=IS_HOST, from_callback=st.booleans())
    def start(self, is_host: bool, from_callback: bool) -> None:
        driver = self.of(is_host)
        with suppress(Refused):
            driver.perform(driver.life.start(0, from_callback=from_callback))
            assert not from_callback

    @rule(is_host=IS_HOST, from_callback=st.booleans())
    def pause(self, is_host: bool, from_callback: bool) -> None:
        driver = self.of(is_host)
        with suppress(Refused):
            driver.perform(driver.life.pause(0, from_callback=from_callback))
            assert not from_callback

    @rule(is_host=IS_HOST, succeeds=st.booleans())
    def callback_returns(self, is_host: bool, succeeds: bool) -> None:
        driver = self.of(is_host)
        if driver.life.running is not None:
            was = driver.life.running
            driver.answer(NtStatus.SUCCESS if succeeds or was is not Callback.OPENED else NtStatus.UNSUCCESSFUL)
            if was is Callback.SUSPEND:
                driver.held = driver.held if driver.endpoint is not None else []
                driver.after_suspend()
            self.link.meet()

    @rule(is_host=IS_HOST)
    def both_run_on(self, is_host: bool) -> None:
        """Whatever waits for a callback gets it, so that long lives are played as well."""
        for _ in range(6):
            for each in (is_host, not is_host):
                self.callback_returns(each, True)

    # ---- packets

    @precondition(lambda self: self.link.is_open)
    @rule(is_host=IS_HOST, waits=st.booleans(), count=st.integers(1, 6))
    def send(self, is_host: bool, waits: bool, count: int) -> None:
        driver = self.of(is_host)
        for _ in range(count if driver.endpoint is not None else 0):
            driver.send(waits)

    @rule(is_host=IS_HOST, flags=st.sampled_from([0x2, 0x8, 0x10]))
    def send_with_wrong_flags(self, is_host: bool, flags: int) -> None:
        driver = self.of(is_host)
        if driver.endpoint is not None:
            before = driver.endpoint.outstanding, driver.endpoint.queued_packets
            with suppress(Refused):
                driver.endpoint.send(b"", None, flags, None)
                raise AssertionError("such flags are refused (K1, K9)")
            assert (driver.endpoint.outstanding, driver.endpoint.queued_packets) == before

    @rule(is_host=IS_HOST)
    def receive(self, is_host: bool) -> None:
        driver = self.of(is_host)
        if driver.endpoint is not None:
            driver.receive()

    @rule(is_host=IS_HOST, index=INDEX)
    def complete(self, is_host: bool, index: int) -> None:
        driver = self.of(is_host)
        if driver.endpoint is not None and driver.held:
            driver.complete(index)

    @rule(is_host=IS_HOST, index=INDEX)
    def complete_again(self, is_host: bool, index: int) -> None:
        driver = self.of(is_host)
        if driver.endpoint is not None and driver.finished:
            driver.complete_again(index)

    @rule(is_host=IS_HOST, index=INDEX)
    def cancel(self, is_host: bool, index: int) -> None:
        driver = self.of(is_host)
        under_way = [number for number in driver.transactions if number not in driver.ended]
        if driver.endpoint is not None and under_way:
            driver.cancel(under_way[index % len(under_way)])

    @rule(is_host=IS_HOST, quota=st.integers(1, 6))
    def set_quota(self, is_host: bool, quota: int) -> None:
        driver = self.of(is_host)
        driver.quota = quota
        if driver.endpoint is not None:
            driver.endpoint.set_transaction_quota(quota)

    # ---- what must hold

    @invariant()
    def callbacks_come_in_their_order_and_none_after_closed(self) -> None:
        for driver in (self.link.host, self.link.guest):
            letters = "".join(LETTERS[each] for each in driver.trace)
            assert LIVES.fullmatch(letters), f"{driver}: {letters}"

    @invariant()
    def nothing_goes_out_from_closed_on(self) -> None:
        for driver in (self.link.host, self.link.guest):
            if not driver.life.phase.is_open and driver.life.phase is not Phase.OPENING:
                assert driver.endpoint is None, f"the {driver} is {driver.life.phase.value} and can send"

    @invariant()
    def a_closed_channel_has_nothing_under_way(self) -> None:
        for driver in (self.link.host, self.link.guest):
            if driver.endpoint is None:
                assert set(driver.transactions) == set(driver.ended), "every packet has ended once"

    @invariant()
    def nothing_keeps_a_packet_that_has_ended(self) -> None:
        for driver in (self.link.host, self.link.guest):
            left = [number for number in driver.ended if driver.on_the_way[number]() is not None]
            if left:
                gc.collect()
                left = [number for number in left if driver.on_the_way[number]() is not None]
            assert not left, f"packets {left} of the {driver} have ended, and something has them still"

    def teardown(self) -> None:
        link = self.link
        for driver in (link.guest, link.host):
            driver.ask(driver.life.disable)
        for _ in range(12):
            for driver in (link.guest, link.host):
                if driver.life.running is not None:
                    driver.answer(NtStatus.SUCCESS)
                driver.held.clear()
                driver.after_suspend()
        for driver in (link.guest, link.host):
            assert driver.life.phase is Phase.DISABLED
            assert set(driver.transactions) == set(driver.ended)
            driver.life.cleanup()


TwoDrivers.TestCase.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
TestTwoDrivers = TwoDrivers.TestCase
