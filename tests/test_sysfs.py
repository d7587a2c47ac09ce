"""Reading a board's files: clusters, sensors and GPU, holding clocks, and detecting throttling."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import boards
import pytest

from ncnnkit.onboard import clocks
from ncnnkit.onboard.clocks import fixed_clocks, restore_clocks
from ncnnkit.onboard.machine import this_board
from ncnnkit.onboard.process import available_cores, usable_cpus
from ncnnkit.onboard.protocol import ClocksReport
from ncnnkit.onboard.sampler import Sampler
from ncnnkit.onboard.sensors import powers
from ncnnkit.onboard.sysfs import cpu_list


def describe(root: str = "/", **options: Any) -> dict[str, Any]:
    return asdict(this_board(root, **options))


def clusters(root: Path, **options: Any) -> list[tuple[Any, ...]]:
    found = describe(str(root), machine="aarch64", **options)["clusters"]
    return [(c["name"], c["cpus"], c["core"], c["max_mhz"], c["governor"]) for c in found]


# ------------------------------------------------------------------------------------------------------ describing


def test_an_rk3588_has_two_clusters_despite_three_clocks(tmp_path: Path) -> None:
    root = boards.rk3588(tmp_path)
    assert clusters(root) == [
        ("little", [0, 1, 2, 3], "Cortex-A55", 1800.0, "ondemand"),
        ("big", [4, 5, 6, 7], "Cortex-A76", 2304.0, "ondemand"),
    ]
    found = describe(str(root), machine="aarch64")
    assert (found["board"], found["soc"]) == ("Radxa ROCK 5B", "rk3588")
    assert found["memory_mb"] == pytest.approx(16499.2, rel=1e-4)
    assert found["temperatures"] == ["soc", "bigcore0", "bigcore1", "littlecore", "gpu"]
    assert found["gpu"] == {
        "name": "fb000000.gpu", "model": None, "driver": "panthor", "max_mhz": 1000.0, "governor": "simple_ondemand",
    }  # fmt: skip
    assert (found["power"], found["emulated"], found["virtual"]) == ([], False, None)


def test_a_raspberry_pi_names_its_cores_in_cpuinfo(tmp_path: Path) -> None:
    assert clusters(boards.raspberry_pi_4(tmp_path / "4")) == [("all", [0, 1, 2, 3], "Cortex-A72", 1500.0, "ondemand")]
    root = boards.raspberry_pi_5(tmp_path / "5")
    assert clusters(root) == [("all", [0, 1, 2, 3], "Cortex-A76", 2400.0, "ondemand")]
    found = describe(str(root), machine="aarch64")
    assert (found["soc"], found["gpu"]["driver"], found["gpu"]["max_mhz"]) == ("bcm2712", "v3d", None)


def test_a_jetson_measures_its_power(tmp_path: Path) -> None:
    root = boards.jetson_orin(tmp_path)
    assert clusters(root) == [("all", list(range(6)), "Cortex-A78AE", 1510.0, "schedutil")]
    found = describe(str(root), machine="aarch64")
    assert found["power"] == [
        {"name": "VDD_IN", "measures": "board"}, {"name": "VDD_CPU_GPU_CV", "measures": "rail"},
        {"name": "VDD_SOC", "measures": "rail"},
    ]  # fmt: skip
    assert (found["soc"], found["gpu"]["driver"]) == ("tegra234", "gk20a")


def test_a_phone_has_three_clusters_and_a_battery(tmp_path: Path) -> None:
    root = boards.android(tmp_path)
    assert [row[:3] for row in clusters(root)] == [
        ("little", [0, 1, 2, 3], "Cortex-A55"), ("middle", [4, 5], "Cortex-A78"), ("big", [6, 7], "Cortex-X1"),
    ]  # fmt: skip
    found = describe(str(root), machine="aarch64")
    assert found["power"] == [{"name": "battery", "measures": "board"}]
    assert found["gpu"]["model"] == "Mali-G78 20 cores r0p1 0x9202"
    assert found["board"] is None


def test_a_laptop_has_fast_and_slow_cores_of_one_name(tmp_path: Path) -> None:
    root = boards.laptop(tmp_path)
    found = describe(str(root), machine="x86_64")
    assert [(c["name"], c["cpus"], c["cores"]) for c in found["clusters"]] == [
        ("little", [4, 5, 6, 7], [4, 5, 6, 7]), ("big", [0, 1, 2, 3], [0, 2]),
    ]  # fmt: skip
    assert found["board"] == "LENOVO 21CBCTO1WW"
    assert found["temperatures"] == ["coretemp Package id 0"], "the disk's is of no interest"
    assert found["power"] == [{"name": "package-0", "measures": "package"}], "its core counter is a part of it"


def test_a_machine_without_information_is_still_described(tmp_path: Path) -> None:
    found = describe(str(boards.virtual_machine(tmp_path / "vm")), machine="x86_64")
    assert found["clusters"] == [
        {"name": "all", "cpus": [0], "cores": [0], "core": "AMD EPYC", "max_mhz": None, "governor": None}
    ]
    assert found["virtual"] == "the CPU has the flag of a hypervisor"
    nothing = describe(str(tmp_path / "empty"), machine="x86_64")
    assert (nothing["clusters"], nothing["gpu"], nothing["memory_mb"]) == ([], None, None)
    json.dumps(describe())


def test_only_usable_cpus_count(tmp_path: Path) -> None:
    assert clusters(boards.rk3588(tmp_path), usable=[1, 4]) == [
        ("little", [1], "Cortex-A55", 1800.0, "ondemand"), ("big", [4], "Cortex-A76", 2256.0, "ondemand"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("machine", "runs", "emulated"),
    [
        ("aarch64", "aarch64", False),
        ("aarch64", "x86_64", True),
        ("x86_64", "aarch64", True),
        ("armv7l", "aarch64", False),  # 32-bit programs on a 64-bit kernel
        ("sparc64", "x86_64", False),  # unknown, so nothing is reported
    ],
)
def test_an_emulator_is_known_by_the_program_that_really_runs(
    tmp_path: Path, machine: str, runs: str, emulated: bool
) -> None:
    assert describe(str(boards.running(tmp_path, runs)), machine=machine)["emulated"] is emulated


def test_an_emulator_is_known_by_its_hosts_files(tmp_path: Path) -> None:
    """If the program cannot be read."""
    assert describe(str(boards.virtual_machine(tmp_path / "old")), machine="aarch64")["emulated"]
    named = boards.make(tmp_path / "new", {"proc/sys/kernel/arch": "x86_64\n"})
    assert describe(str(named), machine="aarch64")["emulated"]
    assert not describe(str(named), machine="i686")["emulated"]


# ---------------------------------------------------------------------------------------------------------- clocks

GOVERNORS = {
    "sys/devices/system/cpu/cpufreq/policy0/scaling_governor": "ondemand",
    "sys/devices/system/cpu/cpufreq/policy4/scaling_governor": "ondemand",
    "sys/devices/system/cpu/cpufreq/policy6/scaling_governor": "ondemand",
    "sys/class/devfreq/fb000000.gpu/governor": "simple_ondemand",
    "sys/class/devfreq/dmc/governor": "dmc_ondemand",
}


def governors(root: Path) -> dict[str, str]:
    return {name: (root / name).read_text().strip() for name in GOVERNORS}


@pytest.fixture
def rock(tmp_path: Path) -> Path:
    return boards.rk3588(tmp_path / "board")


def test_clocks_are_fixed_and_restored(rock: Path, tmp_path: Path) -> None:
    journal = tmp_path / "state" / "clocks.json"
    with fixed_clocks(journal, str(rock)) as report:
        assert report == ClocksReport(["policy0", "policy4", "policy6", "fb000000.gpu", "dmc"])
        assert set(governors(rock).values()) == {"performance"}
        assert json.loads(journal.read_text())["governors"]["dmc"] == "dmc_ondemand"
        assert (rock / "sys/class/devfreq/fdab0000.npu/governor").read_text() == "rknpu_ondemand\n"
    assert governors(rock) == GOVERNORS
    assert not journal.exists()


def test_clocks_are_restored_after_a_failure(rock: Path, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), fixed_clocks(tmp_path / "journal", str(rock)):
        raise ZeroDivisionError
    assert governors(rock) == GOVERNORS


def test_clocks_that_cannot_be_fixed_are_reported(tmp_path: Path) -> None:
    phone = boards.android(tmp_path / "phone")
    with fixed_clocks(tmp_path / "journal", str(phone)) as report:
        assert report.fixed == ["policy0", "policy4", "policy6"]
        assert report.refused == {"28000000.mali": "the kernel has no governor performance here, only quickstep"}
    with fixed_clocks(tmp_path / "journal", str(boards.virtual_machine(tmp_path / "vm"))) as report:
        assert report == ClocksReport()


def test_without_write_permission_nothing_changes(rock: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Any, mode: str = "r", *rest: Any) -> Any:
        if "governor" in str(path) and mode == "w":
            raise PermissionError(13, "Permission denied")
        return open(path, mode, *rest)

    monkeypatch.setattr(clocks, "open", refuse, raising=False)
    with fixed_clocks(tmp_path / "journal", str(rock)) as report:
        assert report.fixed == []
        assert set(report.refused.values()) == {"only root may change it"}
    assert governors(rock) == GOVERNORS
    assert not (tmp_path / "journal").exists()


def test_without_a_journal_no_clock_is_changed(rock: Path, tmp_path: Path) -> None:
    (tmp_path / "full").write_text("a file where a folder should be")
    with fixed_clocks(tmp_path / "full" / "journal", str(rock)) as report:
        assert set(report.refused.values()) == {"no journal can be written: File exists"}
        assert governors(rock) == GOVERNORS


HOLDING = """
    import sys, time
    from pathlib import Path
    from ncnnkit.onboard.clocks import fixed_clocks
    with fixed_clocks(Path(sys.argv[1]), sys.argv[2]):
        print("fixed", flush=True)
        time.sleep(600)
"""


def not_ignored() -> None:
    """nohup ignores SIGHUP, and its children inherit that."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def holder(rock: Path, tmp_path: Path) -> Any:
    """A process that holds the clocks."""
    arguments = [sys.executable, "-c", textwrap.dedent(HOLDING), str(tmp_path / "journal"), str(rock)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, text=True, env=environment, preexec_fn=not_ignored
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "fixed\n"
        yield process
        process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_clocks_are_restored_after_sigterm(rock: Path, tmp_path: Path, holder: Any, number: signal.Signals) -> None:
    holder.send_signal(number)
    assert holder.wait() == 128 + number
    assert governors(rock) == GOVERNORS
    assert not (tmp_path / "journal").exists()


def test_the_next_start_restores_the_clocks_of_a_killed_run(rock: Path, tmp_path: Path, holder: Any) -> None:
    holder.kill()
    holder.wait()
    assert set(governors(rock).values()) == {"performance"}
    assert restore_clocks(tmp_path / "journal", str(rock)) == []
    assert governors(rock) == GOVERNORS
    assert not (tmp_path / "journal").exists()
    assert restore_clocks(tmp_path / "journal", str(rock)) == []


def test_the_next_run_knows_the_clocks_before_the_killed_run(rock: Path, tmp_path: Path, holder: Any) -> None:
    holder.kill()
    holder.wait()
    with fixed_clocks(tmp_path / "journal", str(rock)):
        assert set(governors(rock).values()) == {"performance"}
    assert governors(rock) == GOVERNORS


def test_only_one_of_two_concurrent_runs_holds_the_clocks(rock: Path, tmp_path: Path, holder: Any) -> None:
    assert restore_clocks(tmp_path / "journal", str(rock)) == []
    assert set(governors(rock).values()) == {"performance"}, "the other still measures"
    with fixed_clocks(tmp_path / "journal", str(rock)) as report:
        assert set(report.refused.values()) == {"another run holds the clocks"}
    assert set(governors(rock).values()) == {"performance"}


def test_a_journal_from_before_a_reboot_is_ignored(rock: Path, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    journal.write_text(json.dumps({"boot": "another", "governors": {"policy0": "powersave"}}))
    assert restore_clocks(journal, str(rock)) == []
    assert governors(rock) == GOVERNORS
    assert not journal.exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"boot": 1}', '{"boot": "", "governors": {"../x": "y"}}'])
def test_a_damaged_journal_harms_nothing(rock: Path, tmp_path: Path, text: str) -> None:
    journal = tmp_path / "journal"
    journal.write_text(text)
    assert restore_clocks(journal, str(rock)) == []
    assert governors(rock) == GOVERNORS


# -------------------------------------------------------------------------------------------------------- watching

BIG = "sys/devices/system/cpu/cpufreq/policy4"
BIG2 = "sys/devices/system/cpu/cpufreq/policy6"


def watched(root: Path, *steps: Callable[[], Any], **options: Any) -> dict[str, Any]:
    """One run in which each step happens and is then sampled."""
    sampler = Sampler(str(root), interval=0.01, **options)
    sampler.FIRST = 0.0
    with sampler:
        for step in steps:
            _wait_for_looks(sampler, 2)
            step()
        _wait_for_looks(sampler, 3)
    return asdict(sampler.result(ms=10.0))


def _wait_for_looks(sampler: Sampler, count: int) -> None:
    target = sampler.result().looks + count
    while sampler.result().looks < target:
        time.sleep(0.002)


def put(root: Path, name: str, text: str) -> Callable[[], None]:
    """A step that changes a file at once, like the kernel."""

    def step() -> None:
        (root / "new").write_text(text)
        (root / "new").replace(root / name)

    return step


def test_clocks_temperatures_and_power_are_seen(tmp_path: Path) -> None:
    root = boards.jetson_orin(tmp_path)
    found = watched(root, put(root, "sys/class/thermal/thermal_zone0/temp", "61500\n"))
    assert found["clocks_mhz"]["gpu"] == {"min": 624.0, "median": 624.0, "max": 624.0, "mean": 624.0}
    assert found["temperatures"]["cpu"]["min"] == 42.0
    assert found["temperatures"]["cpu"]["max"] == 61.5
    assert set(found["power_w"]) == {"VDD_IN", "VDD_CPU_GPU_CV", "VDD_SOC"}
    assert found["power_w"]["VDD_IN"]["mean"] == pytest.approx(5.04 * 1.2)
    assert (found["energy_of"], found["energy_mj"]) == ("VDD_IN", pytest.approx(60.48)), "W times ms"
    assert (found["throttled"], found["throttled_by"]) == (False, []), "a fan that turns is not throttling"


def test_a_battery_shows_power_while_it_discharges(tmp_path: Path) -> None:
    root = boards.android(tmp_path)
    assert watched(root)["power_w"]["battery"]["mean"] == pytest.approx(3.4)
    put(root, "sys/class/power_supply/battery/status", "Charging\n")()
    found = watched(root)
    assert (found["power_w"], found["energy_mj"], found["energy_of"]) == ({}, None, None)


def test_an_energy_counter_gives_power_even_if_it_wraps_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = boards.laptop(tmp_path)
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    (sensor,) = powers(root)
    counter = root / "sys/class/powercap/intel-rapl:0/energy_uj"
    assert sensor.read() is None
    now[0], _ = 102.0, counter.write_text("30001000\n")
    assert sensor.read() == pytest.approx(15.0)
    now[0], _ = 103.0, counter.write_text("1000\n")
    assert sensor.read() == pytest.approx((262143328850 - 30000000) * 1e-6)


def test_a_raspberry_pi_5_reports_the_power_of_its_rails(tmp_path: Path) -> None:
    root = boards.raspberry_pi_5(tmp_path)
    said = "3V3_SYS_A current(2)=0.5000000A\n3V3_SYS_V volt(10)=3.3000000V\nVDD_CORE_A current(7)=2.0A\n"
    said += "VDD_CORE_V volt(15)=0.75V\nEXT5V_V volt(24)=5.1V\n"
    tool = root / "usr/bin/vcgencmd"
    tool.parent.mkdir(parents=True)
    tool.write_text(f'#!/bin/sh\n[ "$1" = pmic_read_adc ] && printf "{said}"\n')
    tool.chmod(0o755)
    found = watched(root)
    assert found["power_w"]["PMIC"]["mean"] == pytest.approx(0.5 * 3.3 + 2.0 * 0.75)
    assert found["energy_of"] == "PMIC"
    (sensor,) = powers(root)
    assert sensor.read() is not None
    assert sensor.read() is None, "not again within a second"
    tool.write_text("#!/bin/sh\necho not permitted\n")
    assert powers(root)[0].read() is None


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_the_sampling_thread_avoids_the_measured_cpus(rock: Path) -> None:
    first, *others = sorted(os.sched_getaffinity(0))
    with Sampler(str(rock), cpus=[first]) as sampler:
        assert sampler._thread is not None
        _wait_for_looks(sampler, 1)
        status = Path(f"/proc/self/task/{sampler._thread.native_id}/status").read_text()
    allowed = next(line.split()[1] for line in status.splitlines() if line.startswith("Cpus_allowed_list"))
    assert cpu_list(allowed) == others
    assert first in os.sched_getaffinity(0), "the measuring itself does not"


def test_a_machine_without_sensors_needs_no_thread(tmp_path: Path) -> None:
    with Sampler(str(boards.virtual_machine(tmp_path))) as sampler:
        assert sampler._thread is None
    assert asdict(sampler.result(5.0)) == {
        "looks": 0, "clocks_mhz": {}, "temperatures": {}, "power_w": {}, "energy_mj": None, "energy_of": None,
        "throttled": None, "throttled_by": [],
    }  # fmt: skip


def test_a_very_short_run_is_sampled(rock: Path) -> None:
    with Sampler(str(rock)) as sampler:
        pass
    assert sampler.result().looks == 1


def test_a_fixed_clock_that_falls_is_throttling(rock: Path) -> None:
    for policy in (BIG, BIG2):
        put(rock, f"{policy}/scaling_governor", "performance\n")()
    one, both = put(rock, f"{BIG}/scaling_cur_freq", "1608000\n"), put(rock, f"{BIG2}/scaling_cur_freq", "1608000\n")
    assert watched(rock, one)["throttled"] is False, "the other pair may carry the load"
    both()
    assert watched(rock, cpus=[4, 5, 6, 7])["throttled"] is False, "so from the start: nothing fell"
    put(rock, f"{BIG}/scaling_cur_freq", "2256000\n")()
    found = watched(rock, one, cpus=[4, 5, 6, 7])
    assert found["throttled_by"] == ["the clock of big fell from 2256 MHz under load"]
    assert found["clocks_mhz"]["big"]["min"] == 1608.0


def test_a_lowered_clock_is_not_throttling_if_the_load_may_have_moved(rock: Path) -> None:
    steps = [put(rock, f"{policy}/scaling_cur_freq", "600000\n") for policy in (BIG, BIG2)]
    assert watched(rock, *steps)["throttled"] is False


@pytest.mark.parametrize(
    ("make", "name", "text", "said"),
    [
        (boards.rk3588, f"{BIG2}/scaling_max_freq", "1200000\n", "the cap of the clock of big was lowered from 2304"),
        (boards.rk3588, "sys/class/thermal/cooling_device1/cur_state", "2\n", "the kernel cools by thermal-cpufreq-1"),
        (boards.jetson_orin, "sys/class/thermal/cooling_device1/cur_state", "1\n", "cools by gpu-throttle-alert"),
        (boards.raspberry_pi_4, "sys/devices/platform/soc/soc:firmware/get_throttled", "4\n", "firmware throttles"),
        (boards.raspberry_pi_4, "sys/devices/platform/soc/soc:firmware/get_throttled", "10000\n", "voltage is too low"),
        (boards.raspberry_pi_5, "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled", "2\n",
         "the firmware caps the clock"),
        (boards.laptop, "sys/devices/system/cpu/cpu3/thermal_throttle/core_throttle_count", "8\n", "counted thermal"),
    ],
)  # fmt: skip
def test_every_sign_of_throttling_is_recognised(
    tmp_path: Path, make: Callable[[Path], Path], name: str, text: str, said: str
) -> None:
    root = make(tmp_path)
    steps = [put(root, name, text)]
    if "scaling_max_freq" in name:
        steps.append(put(root, f"{BIG}/scaling_max_freq", text))
    found = watched(root, *steps)
    assert found["throttled"] is True
    assert said in found["throttled_by"][0]


def test_earlier_events_in_the_firmware_are_not_throttling_now(tmp_path: Path) -> None:
    root = boards.raspberry_pi_4(tmp_path)
    put(root, "sys/devices/platform/soc/soc:firmware/get_throttled", "50000\n")()
    assert watched(root)["throttled"] is False


@pytest.mark.parametrize(("quota", "cores"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None)])
def test_a_containers_cpu_quota_bounds_the_threads(tmp_path: Path, quota: str, cores: int | None) -> None:
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(quota + "\n")
    assert available_cores(str(tmp_path)) == (cores or len(usable_cpus() or []))


def test_a_process_on_one_cpu_is_counted_as_one_core() -> None:
    """ncnn counts all processors of the machine, including those that the process may not use."""
    told = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    told += "from ncnnkit.onboard.machine import this_machine as t; m = t(); print(m.cores, m.default_threads)"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "1"]
