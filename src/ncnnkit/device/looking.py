"""What ncnn and Linux report about a device: :func:`look_at`."""

from __future__ import annotations

from ..errors import DeviceError
from ..onboard.child import WorkerError
from ..onboard.facts import Machine
from .base import Device
from .local import LOCAL

LOOK_TIMEOUT = 180.0  # seconds; on a slow board the first import of numpy alone takes many


def look_at(device: Device = LOCAL) -> Machine:
    """What ncnn and Linux report about a device; by default of this machine.

    Raises:
        DeviceError: the request failed (for example because of a broken Vulkan driver), or a field of the answer is
            wrong. The error names the first such field.
    """
    with device.child() as child:
        try:
            machine: Machine = child.ask("machine", timeout=LOOK_TIMEOUT)[0].machine
        except WorkerError as error:
            hint = "a broken Vulkan driver?" if error.native else ""
            raise DeviceError(f"ncnn failed while looking at it: {error}", where=device.name, hint=hint) from None
    return machine
