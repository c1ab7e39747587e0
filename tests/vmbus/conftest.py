"""One suite, both builds of the ring: what makes a test run over each, and what names them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from emulator.vmbus.ring import RING_BUILD, RING_BUILD_PROBLEM, RING_BUILDS, RingBuild
from tests.support.tools import in_ci
from tests.vmbus import channel_pair

NAMES = ("pure", "compiled")


def build_named(name: str) -> RingBuild:
    """A build of the ring; where it is missing the calling test is skipped, and in an automatic run it fails."""
    build = RING_BUILDS.get(name)
    if build is not None:
        return build
    message = f"the {name} ring was not built here ({RING_BUILD_PROBLEM}); a C compiler, then ./dev setup, brings it"
    if in_ci():
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


# Of the module, not of the test: it then serves tests that hypothesis runs many times, too.
@pytest.fixture(scope="module", params=NAMES)
def ring_build(request: pytest.FixtureRequest) -> Iterator[RingBuild]:
    """The build whose rings ``channel_pair`` lays out for the tests of a module; each test has its name in its id."""
    build = build_named(request.param)
    with channel_pair.rings_of(build):
        yield build


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the builds in every log, also in one that does not list its tests."""
    there = ", ".join(name for name in NAMES if name in RING_BUILDS)
    terminalreporter.write_line(f"rings under test: {there}; in use by default: {RING_BUILD}")
