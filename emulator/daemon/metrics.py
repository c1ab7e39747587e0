"""Figures for a Prometheus collector: read from the daemon when they are asked for, nothing kept between."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from emulator.daemon.counters import Counters
from emulator.vmbus.ring import RING_BUILD

if TYPE_CHECKING:
    from emulator.daemon.machines import Machine
    from emulator.daemon.server import Server

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
# The label of all machines beyond the configured number; no machine can be called so.
OTHER_MACHINES = "(others)"


@dataclass
class _Figures:
    """What is shown under one machine label."""

    counters: Counters = field(default_factory=Counters)
    offers: int = 0
    open_channels: int = 0
    waiting_guests: int = 0
    memory_bytes: int = 0
    free_bytes: int = 0
    failed: int = 0
    violations: int = 0
    datagrams_received: int = 0

    def add(self, machine: Machine) -> None:
        self.counters.add(machine.counters)
        self.offers += len(machine.offers)
        self.open_channels += len(machine.channels)
        self.waiting_guests += len(machine.waiting)
        self.memory_bytes += machine.memory.byte_count
        self.free_bytes += machine.pages.free_pages * 4096
        self.failed += machine.failure is not None
        self.violations += machine.bus.violation_count
        self.datagrams_received += machine.datagrams.received


class DaemonCollector(Collector):
    """Makes the metric families of a scrape."""

    def __init__(self, server: Server, most_machines: int) -> None:
        self._server = server
        self._most_machines = most_machines

    def collect(self) -> Iterator[Metric]:
        server = self._server
        build = GaugeMetricFamily("vmbusd_build_info", "Constantly 1.", labels=["version", "ring"])
        build.add_metric([server.version, RING_BUILD], 1)
        yield build
        yield GaugeMetricFamily("vmbusd_sessions", "Attached clients.", value=server.session_count)
        yield GaugeMetricFamily("vmbusd_machines", "Simulated machines.", value=len(server.machines))
        yield CounterMetricFamily("vmbusd_sessions_begun", "Clients since the start.", value=server.sessions_begun)
        figures = self._by_label()
        yield from self._gauges(figures)
        yield from self._counters(figures)
        latency = HistogramMetricFamily(
            "vmbus_completion_seconds",
            "From a hosted client's request to its packet's completion.",
            labels=["machine"],
        )
        for label, each in figures.items():
            latencies = each.counters.latencies
            buckets = [("+Inf" if bound is None else repr(bound), count) for bound, count in latencies.cumulative()]
            latency.add_metric([label], buckets, latencies.total_seconds)
        yield latency

    def _by_label(self) -> dict[str, _Figures]:
        figures: dict[str, _Figures] = {}
        for index, (name, machine) in enumerate(self._server.machines.items()):
            label = name if index < self._most_machines else OTHER_MACHINES
            figures.setdefault(label, _Figures()).add(machine)
        return figures

    @staticmethod
    def _gauges(figures: dict[str, _Figures]) -> Iterator[Metric]:
        for name, meaning, attribute in (
            ("vmbus_offers", "Channels that hosts offer.", "offers"),
            ("vmbus_channels_open", "Channels that are open.", "open_channels"),
            ("vmbus_guests_waiting", "Guests that wait for an offer.", "waiting_guests"),
            ("vmbus_machine_failed", "1 for a machine that a fault has ended.", "failed"),
            ("vmbus_guest_memory_bytes", "Size of guest memory.", "memory_bytes"),
            ("vmbus_guest_memory_free_bytes", "Guest memory nobody holds.", "free_bytes"),
        ):
            family = GaugeMetricFamily(name, meaning, labels=["machine"])
            for label, each in figures.items():
                family.add_metric([label], getattr(each, attribute))
            yield family

    @staticmethod
    def _counters(figures: dict[str, _Figures]) -> Iterator[Metric]:
        packets = CounterMetricFamily(
            "vmbus_packets", "Packets that hosted ends took out of rings.", labels=["machine", "to"]
        )
        sizes = CounterMetricFamily("vmbus_packet_bytes", "Their bytes in the ring.", labels=["machine", "to"])
        opened = CounterMetricFamily("vmbus_channels_opened", "Channels opened.", labels=["machine"])
        failed = CounterMetricFamily("vmbus_channels_failed", "Channels closed for a damaged ring.", labels=["machine"])
        violations = CounterMetricFamily("vmbus_violations", "Control messages dropped by a rule.", labels=["machine"])
        datagrams = CounterMetricFamily("tdi_datagrams_received", "Datagrams from networks.", labels=["machine"])
        for label, each in figures.items():
            counters = each.counters
            packets.add_metric([label, "guest"], counters.packets_to_guest)
            packets.add_metric([label, "host"], counters.packets_to_host)
            sizes.add_metric([label, "guest"], counters.bytes_to_guest)
            sizes.add_metric([label, "host"], counters.bytes_to_host)
            opened.add_metric([label], counters.channels_opened)
            failed.add_metric([label], counters.channels_failed)
            violations.add_metric([label], each.violations)
            datagrams.add_metric([label], each.datagrams_received)
        yield from (packets, sizes, opened, failed, violations, datagrams)


class Metrics:
    """The daemon's figures as the text a collector reads."""

    def __init__(self, server: Server, most_machines: int) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(DaemonCollector(server, most_machines))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """One scrape."""
        return generate_latest(self._registry)
