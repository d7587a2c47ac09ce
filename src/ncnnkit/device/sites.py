"""The devices of a run, and the facts about each."""

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


@dataclass(frozen=True, eq=False)
class Site:
    """A device of a run.

    Attributes:
        device: where it is.
        machine: what ncnn and Linux report there.
        target: the kernels of its CPU (:data:`ncnnkit.quantization.TARGETS`).
        label: distinguishes its variants from those of other devices; empty if there is one device.
    """

    device: Device
    machine: Machine
    target: str
    label: str = ""

    @property
    def emulated(self) -> bool:
        """Whether it only computes what the real one would: its timings mean nothing."""
        return self.machine.board.emulated

    @property
    def has_gpu(self) -> bool:
        return self.machine.has_gpu

    def cluster(self, name: str) -> tuple[int, ...]:
        """The CPUs to pin to, of a cluster's name or a list as ``4-7``; none for ``all`` or no name.

        Raises:
            RecipeError: there are no such here.
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
        """The name of a variant here."""
        return f"{precision}-{backend}{self.label}"

    def record(self, recommended: str | None, why: str) -> DeviceRecord:
        """The device as run.json holds it.

        Args:
            recommended, why: which variant is recommended for it.
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
    """The devices of these names, reached and looked at; this machine where there are no names.

    Args:
        target: kernels to assume on all; by default what each device's CPU has.

    Raises:
        RecipeError: an unknown name, or one twice.
        DeviceError: one of them cannot be used.
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


def look_at(device: Device = LOCAL) -> Machine:
    """What ncnn and Linux report about a device; by default of this machine.

    Raises:
        DeviceError: asking failed, as with a broken Vulkan driver, or a field of the answer is wrong; names the first.
    """
    with device.child() as child:
        try:
            machine: Machine = child.ask("machine", timeout=LOOK_TIMEOUT)[0].machine
        except WorkerError as error:
            raise DeviceError(
                f"ncnn failed while looking at it: {error}", where=device.name, hint="a broken Vulkan driver?"
            ) from None
    return machine


LOOK_TIMEOUT = 180.0  # seconds; on a slow board the first import of numpy alone takes many


def run_jobs(jobs: Mapping[Site, Job[R]], notify: Callable[[Step], None]) -> dict[Site, R | DeviceError]:
    """Run a job on each device, all at once; a device that fails gives its DeviceError.

    Args:
        notify: called with what every job says, from the devices' threads.
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
    """End what threads do with these devices when their caller is interrupted or fails: it would wait for them."""
    try:
        yield
    except BaseException:
        with ThreadPoolExecutor(len(devices)) as pool:
            list(pool.map(lambda device: device.cancel(), devices))
        raise
