"""What the configuration of segments and gateways refuses, and what it makes of what it takes."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from emulator.config import Config
from emulator.segment_config import SegmentConfig, changed
from emulator.status import Refused
from emulator.tdi.gateway import GatewayPort
from emulator.tdi.profile import SegmentProfile
from emulator.tdi.structures import SocketAddress

GOOD = {"inside": "10.0.0.1:9000", "outside": "127.0.0.1:19000"}


def with_ports(*ports: dict[str, str]) -> dict[str, Any]:
    return {"segments": {"lan": {"gateway": {"ports": list(ports)}}}, "machines": {}}


def test_the_default_does_nothing_to_datagrams() -> None:
    assert SegmentConfig().profile() == SegmentProfile()
    assert SegmentConfig().profile().is_plain


@pytest.mark.parametrize(
    ("ports", "expected"),
    [
        ([GOOD | {"outside": "192.0.2.1:1"}], "192.0.2.1 is not in udp.bind"),
        ([GOOD | {"inside": "192.0.2.1:1"}], "inside 192.0.2.1:1 is not in the subnet"),
        ([GOOD | {"to": "192.0.2.1:1"}], "to 192.0.2.1:1 is not in the subnet"),
        ([GOOD, GOOD | {"outside": "127.0.0.1:19001"}], "10.0.0.1:9000 is named twice"),
        ([GOOD | {"peer": "127.0.0.1:5"}], "only a program that plays a machine has one"),
        ([GOOD | {"outside": "127.0.0.1"}], "is not HOST:PORT"),
        ([GOOD | {"outside": "127.0.0.1:0"}], "is not HOST:PORT"),
        ([GOOD | {"outside": "::1:5"}], "is not HOST:PORT"),
        ([GOOD | {"outside": "localhost:5"}], "does not appear to be an IPv4 or IPv6 address"),
    ],
)
def test_a_gateway_that_cannot_be_is_refused(ports: list[dict[str, str]], expected: str) -> None:
    with pytest.raises(ValidationError, match=expected):
        Config.model_validate(with_ports(*ports))


def test_a_gateway_is_what_was_written() -> None:
    config = Config.model_validate(
        with_ports(GOOD, {"inside": "10.0.0.2:1", "outside": "[::1]:5", "to": "10.0.0.3:2", "peer": "[0:0::1]:7"})
    )
    gateway = config.segments["lan"].gateway
    assert gateway is not None
    assert [port.port() for port in gateway.ports] == [
        GatewayPort(SocketAddress("10.0.0.1", 9000), SocketAddress("127.0.0.1", 19000)),
        GatewayPort(
            SocketAddress("10.0.0.2", 1), SocketAddress("::1", 5), SocketAddress("10.0.0.3", 2), SocketAddress("::1", 7)
        ),
    ]


def test_changes_keep_what_they_do_not_name() -> None:
    settings = changed(SegmentConfig(loss=0.5, seed=3), {"jitter_seconds": 0.25})
    assert (settings.loss, settings.seed, settings.jitter_seconds) == (0.5, 3, 0.25)
    with pytest.raises(Refused, match=r"loss .*; latency_seconds"):
        changed(settings, {"loss": -1, "latency_seconds": "soon"})


@pytest.mark.parametrize("setting", ["loss", "latency_seconds", "seed", "maximum_datagram_bytes"])
def test_true_is_no_number_in_a_change(setting: str) -> None:
    with pytest.raises(Refused, match=f"{setting} Input should be a number"):
        changed(SegmentConfig(), {setting: True})
    assert changed(SegmentConfig(), {"stalled": True}).stalled


def test_machines_have_permissions_of_their_own_or_those_of_all() -> None:
    config = Config.model_validate(
        {"machines": {"a": {}, "b": {"bind": ["127.0.0.9"], "reach": []}}, "udp": {"bind": ["127.0.0.2"]}}
    )
    assert config.bindable(config.machines["a"]) == ("127.0.0.2",)
    assert config.bindable(config.machines["b"]) == ("127.0.0.9",)
    assert config.reachable(config.machines["b"]) == ()
