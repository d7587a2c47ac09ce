"""The devices of a run, with the facts about each."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ..errors import DeviceError, RecipeError
from ..model.targets import machine_target
from ..onboard.child import WorkerError
from ..onboard.facts import Machine
from ..onboard.protocol import Job, R, Step
from ..recipe import parse_cpus
from ..record.run import DeviceRecord
from . import LOCAL, Device, open_device, resolve
from .looking import look_at


@dataclass(frozen=True, eq=False)
class Site:
    """A device of a run.

    Attributes:
        device: the device.
        machine: what ncnn and Linux report about it.
        target: the kernels of its CPU (:data:`ncnnkit.model.targets.TARGETS`).
        label: distinguishes its variants from those of other devices; empty if there is only one device.
    """

    device: Device
    machine: Machine
    target: str
    label: str = ""

    @property
    def emulated(self) -> bool:
        """Whether the device is emulated. Then its outputs are correct, but its timings mean nothing."""
        return self.machine.board.emulated

    @property
    def has_gpu(self) -> bool:
        """Whether it has a Vulkan device that is not a software device."""
        return self.machine.has_gpu

    def cluster(self, name: str) -> tuple[int, ...]:
        """The CPUs to pin to, from the name of a cluster or a list such as ``4-7``; empty for ``all`` or no name.

        Raises:
            RecipeError: this device does not have them.
        """
        if name in ("", "all"):
            return ()
        clusters = {cluster.name: cluster.cpus for cluster in self.machine.board.clusters}
        there = {cpu for cpus in clusters.values() for cpu in cpus}
        cpus = tuple(clusters.get(name, parse_cpus(name)))
        if not cpus or not there.issuperset(cpus):
            has = ", ".join(f"{name} ({', '.join(map(str, cpus))})" for name, cpus in clusters.items())
            raise RecipeError(f"{self.device.name} has no {name} cores", hint=f"it has {has}")
        return cpus

    def variant(self, precision: str, backend: str) -> str:
        """The name of a variant on this device."""
        return f"{precision}-{backend}{self.label}"

    def record(self, recommended: str | None, why: str) -> DeviceRecord:
        """The record of the device in run.json.

        Args:
            recommended, why: the variant that is recommended for it, and the reason.
        """
        return DeviceRecord(
            name=self.device.name,
            address=self.device.address,
            target=self.target,
            machine=self.machine,
            recommended=recommended,
            why=why,
        )


@contextmanager
def open_sites(names: Sequence[str], target: str = "") -> Iterator[list[Site]]:
    """Connect to the devices with these names and examine them. Without names: this machine.

    Args:
        target: the kernels to assume on all devices; by default those of each device's CPU.

    Raises:
        RecipeError: a name is unknown, or is given twice.
        DeviceError: a device cannot be used.
    """
    names = names or ("local",)
    addresses = [resolve(name) for name in names]
    for name, address in zip(names, addresses):
        if addresses.count(address) > 1:
            raise RecipeError(f"{name} is given twice", hint=f"its address is {address}")
    with ExitStack() as stack:
        devices = [stack.enter_context(open_device(name)) for name in names]
        with ThreadPoolExecutor(len(devices)) as pool, _cancelling(devices):
            machines = list(pool.map(look_at, devices))
        yield [
            Site(device, machine, target or machine_target(machine), f"@{device.name}" if len(devices) > 1 else "")
            for device, machine in zip(devices, machines)
        ]


def local_site() -> Site:
    """This machine as the only device of a run. Raises DeviceError."""
    machine = look_at()
    return Site(LOCAL, machine, machine_target(machine))


def run_jobs(jobs: Mapping[Site, Job[R]], notify: Callable[[Step], None]) -> dict[Site, R | DeviceError]:
    """Run a job on each device, all at once; a device that fails gives its DeviceError.

    Args:
        notify: called with the progress of every job, from the threads of the devices.
    """

    def run(site: Site) -> R | DeviceError:
        try:
            return site.device.run_job(jobs[site], notify)
        except WorkerError as error:
            return DeviceError(error.sentence, where=site.device.name)
        except DeviceError as error:
            return error

    with ThreadPoolExecutor(max(1, len(jobs))) as pool, _cancelling([site.device for site in jobs]):
        return dict(zip(jobs, pool.map(run, jobs)))


@contextmanager
def _cancelling(devices: Sequence[Device]) -> Iterator[None]:
    """If the caller is interrupted or fails, end what threads do with these devices, instead of waiting for them."""
    try:
        yield
    except BaseException:
        with ThreadPoolExecutor(len(devices)) as pool:
            list(pool.map(lambda device: device.cancel(), devices))
        raise
