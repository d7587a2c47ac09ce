"""Folders with the files of boards under /proc and /sys, for tests without the boards."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ncnnkit.onboard.facts import Board, DeviceType, Machine, VulkanDevice

Files = dict[str, str]

A53, A55, A72, A76, A78AE, X1, A78 = 0xD03, 0xD05, 0xD08, 0xD0B, 0xD42, 0xD44, 0xD41

EXECUTABLE = {"x86_64": 62, "aarch64": 183, "armv7l": 40}


def make(root: Path, files: Mapping[str, str], links: Mapping[str, str] | None = None) -> Path:
    """Write files and links into a folder, and return it. The targets of links need not exist."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for name, target in (links or {}).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    return root


def running(root: Path, machine: str) -> Path:
    """Make the running program one for this processor."""
    path = root / "proc/thread-self/exe"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HH", 2, EXECUTABLE[machine]))
    return root


def cluster(first: int, count: int, part: int, mhz: int, governor: str = "schedutil", capacity: int = 0) -> Files:
    """CPUs with one cpufreq policy."""
    policy, cpus = f"sys/devices/system/cpu/cpufreq/policy{first}", range(first, first + count)
    files = {
        f"{policy}/related_cpus": " ".join(map(str, cpus)) + "\n",
        f"{policy}/cpuinfo_max_freq": f"{mhz}000\n",
        f"{policy}/scaling_max_freq": f"{mhz}000\n",
        f"{policy}/scaling_cur_freq": f"{mhz}000\n",
        f"{policy}/scaling_governor": f"{governor}\n",
        f"{policy}/scaling_available_governors": "conservative ondemand userspace powersave performance schedutil \n",
    }
    for cpu in cpus:
        own = f"sys/devices/system/cpu/cpu{cpu}"
        files[f"{own}/regs/identification/midr_el1"] = f"0x{0x41 << 24 | 0xF << 16 | part << 4:016x}\n"
        files[f"{own}/topology/thread_siblings_list"] = f"{cpu}\n"
        if capacity:
            files[f"{own}/cpu_capacity"] = f"{capacity}\n"
    return files


def devfreq(name: str, mhz: int, governor: str, possible: str) -> Files:
    folder = f"sys/class/devfreq/{name}"
    return {
        f"{folder}/cur_freq": f"{mhz}000000\n", f"{folder}/max_freq": f"{mhz}000000\n",
        f"{folder}/governor": f"{governor}\n", f"{folder}/available_governors": f"{possible}\n",
    }  # fmt: skip


def zones(names: Sequence[str], degrees: int = 42) -> Files:
    rows = {f"sys/class/thermal/thermal_zone{i}/type": f"{name}\n" for i, name in enumerate(names)}
    return {**rows, **{f"sys/class/thermal/thermal_zone{i}/temp": f"{degrees}000\n" for i in range(len(names))}}


def board(model: str, *compatible: str, cpus: int, memory_kb: int) -> Files:
    return {
        "proc/device-tree/model": model + "\0",
        "proc/device-tree/compatible": "".join(name + "\0" for name in compatible),
        "proc/meminfo": f"MemTotal:       {memory_kb} kB\nMemFree: 1 kB\n",
        "proc/sys/kernel/random/boot_id": "5c2f6a1e-0000-4000-8000-000000000001\n",
        "sys/devices/system/cpu/online": f"0-{cpus - 1}\n",
    }


def rk3588(root: Path) -> Path:
    """A Radxa ROCK 5B with Panthor: four A55, and two pairs of A76 with different highest clocks."""
    ondemand = "userspace powersave performance simple_ondemand"
    files = {
        **board("Radxa ROCK 5B", "radxa,rock-5b", "rockchip,rk3588", cpus=8, memory_kb=16112480),
        **cluster(0, 4, A55, 1800, "ondemand", 530),
        **cluster(4, 2, A76, 2256, "ondemand", 1024),
        **cluster(6, 2, A76, 2304, "ondemand", 1024),
        **devfreq("fb000000.gpu", 1000, "simple_ondemand", ondemand),
        **devfreq("dmc", 2112, "dmc_ondemand", "dmc_ondemand " + ondemand),
        **devfreq("fdab0000.npu", 1000, "rknpu_ondemand", "rknpu_ondemand " + ondemand),
        **zones(["soc-thermal", "bigcore0-thermal", "bigcore1-thermal", "littlecore-thermal", "gpu-thermal"]),
        "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
        "sys/class/thermal/cooling_device0/cur_state": "3\n",
        "sys/class/thermal/cooling_device1/type": "thermal-cpufreq-1\n",
        "sys/class/thermal/cooling_device1/cur_state": "0\n",
    }
    return make(root, files, {"sys/class/devfreq/fb000000.gpu/device/driver": "../../../bus/platform/drivers/panthor"})


def raspberry_pi_4(root: Path) -> Path:
    """A Raspberry Pi 4 with a kernel that shows no MIDR: the core's type is in cpuinfo."""
    files = {
        **board("Raspberry Pi 4 Model B Rev 1.4", "raspberrypi,4-model-b", "brcm,bcm2711", cpus=4, memory_kb=3884392),
        **{k: v for k, v in cluster(0, 4, A72, 1500, "ondemand").items() if "midr" not in k},
        **zones(["cpu-thermal"]),
        "proc/cpuinfo": "".join(
            f"processor\t: {i}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
            f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
            for i in range(4)
        )
        + "Revision\t: c03114\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "0\n",
    }
    return make(root, files, {"sys/class/drm/renderD128/device/driver": "../../../../bus/platform/drivers/v3d"})


def raspberry_pi_5(root: Path) -> Path:
    files = {
        **board("Raspberry Pi 5 Model B Rev 1.0", "raspberrypi,5-model-b", "brcm,bcm2712", cpus=4, memory_kb=8245376),
        **cluster(0, 4, A76, 2400, "ondemand"),
        **zones(["cpu-thermal"]),
        "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
        "sys/class/thermal/cooling_device0/cur_state": "1\n",
        "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "0\n",
    }
    return make(root, files, {"sys/class/drm/renderD128/device/driver": "../../../bus/platform/drivers/v3d"})


def jetson_orin(root: Path) -> Path:
    """An Orin Nano: six A78AE in two equal clusters, and an INA3221 with a sum as its fourth current."""
    ina = "sys/class/hwmon/hwmon1"
    rails = (("VDD_IN", 5040, 1200), ("VDD_CPU_GPU_CV", 5032, 400), ("VDD_SOC", 5032, 300))
    files = {
        **board("NVIDIA Jetson Orin Nano Developer Kit", "nvidia,p3768-0000+p3767-0005", "nvidia,p3767-0005",
                "nvidia,tegra234", cpus=6, memory_kb=7802968),
        **cluster(0, 4, A78AE, 1510), **cluster(4, 2, A78AE, 1510),
        **devfreq("17000000.gpu", 624, "nvhost_podgov", "nvhost_podgov userspace powersave performance"),
        **zones(["cpu-thermal", "gpu-thermal", "tj-thermal"]),
        f"{ina}/name": "ina3221\n",
        f"{ina}/curr4_input": "1900\n", f"{ina}/in4_input": "6\n", f"{ina}/curr4_label": "Sum of shunt voltages\n",
        "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
        "sys/class/thermal/cooling_device0/cur_state": "1\n",
        "sys/class/thermal/cooling_device1/type": "gpu-throttle-alert\n",
        "sys/class/thermal/cooling_device1/cur_state": "0\n",
    }  # fmt: skip
    for channel, (label, millivolts, milliamperes) in enumerate(rails, 1):
        files |= {
            f"{ina}/in{channel}_label": label, f"{ina}/in{channel}_input": f"{millivolts}\n",
            f"{ina}/curr{channel}_input": f"{milliamperes}\n",
        }  # fmt: skip
    return make(root, files, {"sys/class/devfreq/17000000.gpu/device/driver": "../../../bus/platform/drivers/gk20a"})


def android(root: Path) -> Path:
    """A phone with three clusters and Arm's Mali driver, on its battery; its DMI and device tree are not readable."""
    battery = "sys/class/power_supply/battery"
    files = {
        "proc/meminfo": "MemTotal:        7786496 kB\n",
        "sys/devices/system/cpu/online": "0-7\n",
        **cluster(0, 4, A55, 1803, "sched_pixel", 124), **cluster(4, 2, A78, 2253, "sched_pixel", 500),
        **cluster(6, 2, X1, 2802, "sched_pixel", 1024),
        **devfreq("28000000.mali", 848, "quickstep", "quickstep"),
        **zones(["BIG", "MID", "LITTLE"]),
        "sys/class/misc/mali0/device/gpuinfo": "Mali-G78 20 cores r0p1 0x9202\n",
        f"{battery}/type": "Battery\n", f"{battery}/status": "Discharging\n",
        f"{battery}/current_now": "-850000\n", f"{battery}/voltage_now": "4000000\n",
        "sys/class/power_supply/usb/type": "USB\n", "sys/class/power_supply/usb/current_now": "0\n",
    }  # fmt: skip
    return make(root, files, {"sys/class/devfreq/28000000.mali/device/driver": "../../../bus/platform/drivers/mali"})


def laptop(root: Path) -> Path:
    """An x86 laptop: two fast cores with two threads each, four slow ones, and Intel's energy counters."""
    speeds, siblings = (
        (4700, 4700, 4700, 4700, 3500, 3500, 3500, 3500),
        ("0-1", "0-1", "2-3", "2-3", "4", "5", "6", "7"),
    )
    files = {
        "proc/meminfo": "MemTotal:       16112480 kB\n",
        "proc/sys/kernel/random/boot_id": "5c2f6a1e-0000-4000-8000-000000000002\n",
        "proc/cpuinfo": "\n".join(
            f"processor\t: {i}\nvendor_id\t: GenuineIntel\nmodel name\t: 12th Gen Intel(R) Core(TM) i5\n"
            "flags\t\t: fpu sse avx2\n"
            for i in range(8)
        ),
        "sys/devices/system/cpu/online": "0-7\n",
        "sys/class/dmi/id/sys_vendor": "LENOVO\n", "sys/class/dmi/id/product_name": "21CBCTO1WW\n",
        "sys/class/hwmon/hwmon0/name": "nvme\n", "sys/class/hwmon/hwmon0/temp1_input": "31000\n",
        "sys/class/hwmon/hwmon1/name": "coretemp\n", "sys/class/hwmon/hwmon1/temp1_input": "51000\n",
        "sys/class/hwmon/hwmon1/temp1_label": "Package id 0\n",
        **{f"sys/class/powercap/intel-rapl:{zone}/{name}": value
           for zone, kind in (("0", "package-0"), ("0:0", "core"))
           for name, value in (("name", kind), ("energy_uj", "1000"), ("max_energy_range_uj", "262143328850"))},
        "sys/class/power_supply/AC/type": "Mains\n", "sys/class/power_supply/AC/online": "1\n",
    }  # fmt: skip
    for cpu, (mhz, threads) in enumerate(zip(speeds, siblings, strict=True)):
        rows = {k: v for k, v in cluster(cpu, 1, 0, mhz, "powersave").items() if "midr" not in k}
        files |= rows
        files[f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"] = threads + "\n"
        files[f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle/core_throttle_count"] = "7\n"
    return make(root, files)


def virtual_machine(root: Path) -> Path:
    """A board that only shows its CPUs."""
    text = "processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx2 hypervisor\n"
    return make(root, {"proc/cpuinfo": text, "proc/meminfo": "MemTotal: 1000 kB\n"})


def machine(**known: Any) -> Machine:
    """A machine with the given attributes. The other attributes do not matter."""
    return Machine(**{
        "ncnn": "1.0", "python": "3.11", "numpy": "2.0", "platform": "Linux", "machine": "aarch64", "cpu": "a CPU",
        "cpu_features": [], "cores": 4, "default_threads": 4, "vulkan": [], "board": Board(), **known,
    })  # fmt: skip


def vulkan(kind: DeviceType) -> VulkanDevice:
    return VulkanDevice("Mali", kind, "1.0", "1.2.0")
