"""Connection endpoints as open files of a transport: created, asked, cancelled, cleaned up and closed by handle.

Every endpoint is opened on one device, which has to carry connections (CR11), and is associated with an address object
of that device by the object's handle (C1). The transport owns the table of files; this is its part for endpoints.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from emulator.status import NtStatus, Refused
from emulator.tdi.address import AddressObject, OpenFile
from emulator.tdi.connection import ConnectionEndpoint
from emulator.tdi.connection_events import ConnectionEvents
from emulator.tdi.connection_requests import Associate
from emulator.tdi.connections import Connections
from emulator.tdi.device import Device
from emulator.tdi.effects import CleanupComplete, Effect
from emulator.tdi.irp import Irp

if TYPE_CHECKING:
    from emulator.tdi.transport import Transport


def serve_connection(transport: Transport, file: OpenFile, irp: Irp, now: float) -> list[Effect]:
    """Serve any of the connection requests, TDI_ASSOCIATE_ADDRESS to TDI_RECEIVE."""
    assert isinstance(file, ConnectionEndpoint), "the table lets nothing else through"
    return transport.connections.submit(file, irp, now)


class ConnectionFiles:
    """The endpoints among the files of one transport."""

    def __init__(
        self,
        files: dict[int, OpenFile],
        devices: Mapping[str, Device],
        events: ConnectionEvents,
    ) -> None:
        self._files = files
        self._devices = devices
        self.endpoints = Connections(events)

    def open(self, handle: int, device: Device, context: bytes, owner: object) -> ConnectionEndpoint:
        """A new endpoint, idle (CR10); refused on a device for datagrams only (CR11)."""
        if device.connections is None:
            text = f"{device.network} carries datagrams only and has no connection endpoints"
            raise Refused(NtStatus.INVALID_PARAMETER, text, rule="CR11")
        profile, events = device.connections.profile, self.endpoints.events
        endpoint = ConnectionEndpoint(handle, owner, device.network, context, profile, events)
        self._files[handle] = endpoint
        self.endpoints.open(endpoint)
        return endpoint

    def submit(self, endpoint: ConnectionEndpoint, irp: Irp, now: float) -> list[Effect]:
        """A connection request, on an endpoint that takes one."""
        device = self._devices[endpoint.network]
        if isinstance(irp.parameters, Associate):
            return self.endpoints.associate(endpoint, device, irp, self._files.get(irp.parameters.address))
        return self.endpoints.submit(endpoint, device, irp, now)

    def cancel(self, irp: Irp, now: float) -> list[Effect]:
        """Windows: IoCancelIrp, for a request on an endpoint; nothing for any other."""
        file = self._files.get(irp.handle)
        if not isinstance(file, ConnectionEndpoint):
            return []
        return self.endpoints.cancel(irp, file, now)

    def cleanup(self, endpoint: ConnectionEndpoint, now: float) -> list[Effect]:
        """Its last handle is gone (CL4)."""
        return [*self.endpoints.cleanup(endpoint, now), CleanupComplete(endpoint.handle)]

    def close(self, endpoint: ConnectionEndpoint) -> list[Effect]:
        """Forget it."""
        self.endpoints.remove(endpoint)
        return []

    def handlers_changed(self, address: AddressObject, now: float) -> list[Effect]:
        """An event handler of an address object was set or cleared."""
        device = self._devices[address.network]
        return [] if device.connections is None else self.endpoints.handlers_changed(address, device, now)

    def address_cleanup(self, address: AddressObject) -> list[Effect]:
        """An address object is about to be cleaned up: what listens on it ends (CL2)."""
        return self.endpoints.address_cleanup(address)
