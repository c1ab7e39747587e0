"""Device controls: TDI requests of user mode first, then the provider's private ones (O12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from emulator.status import Misuse, Refused
from emulator.tdi.address import OpenFile
from emulator.tdi.address_settings import MembershipSetting, OptionSetting, serve_setting
from emulator.tdi.control_codes import Ioctl
from emulator.tdi.effects import Effect
from emulator.tdi.irp import Irp
from emulator.tdi.object_ids import query_information_ex, set_information_ex
from emulator.tdi.parameters import DeviceControl

if TYPE_CHECKING:
    from emulator.tdi.transport import Transport


def serve_private_control(transport: Transport, file: OpenFile, irp: Irp, now: float) -> list[Effect]:
    """A device control that is no TDI request. Windows: IRP_MJ_DEVICE_CONTROL."""
    control = irp.parameters
    if isinstance(control, (MembershipSetting, OptionSetting)):
        return serve_setting(transport, irp, control)
    if not isinstance(control, DeviceControl):
        raise Misuse(f"a device control comes with {control!r}")
    if control.code == Ioctl.TCP_SET_INFORMATION_EX:
        return set_information_ex(transport, file, irp, control)
    if control.code == Ioctl.TCP_QUERY_INFORMATION_EX:
        return query_information_ex(file, irp, control)
    rule, text = "O12", f"device control 0x{control.code:X} is not known here"
    if control.code in (Ioctl.QUERY_DIRECT_SEND_HANDLER, Ioctl.QUERY_DIRECT_SENDDG_HANDLER):
        rule, text = "O14", "there is no function to call instead of submitting requests: submit them"
    raise Refused(transport.device_of(file).profile.unknown_control_status, text, rule=rule)
