"""Batches: what is merged is the same however the work is divided, and a batch whose worker is lost runs again."""

from __future__ import annotations

import math
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import network, samples, small, stream
from PIL import Image
from processes import children

import ncnnkit as nk
from ncnnkit import batches
from ncnnkit.artifact import Artifact
from ncnnkit.batches import AHEAD, TRIES, WorkerLost, Workers, as_workers, map_batches, open_workers, versions
from ncnnkit.comparison.accuracy import Errors
from ncnnkit.comparison.evaluation import Version, errors_over, outputs_over
from ncnnkit.comparison.judge import Judge
from ncnnkit.comparison.noise import ExactSum
from ncnnkit.device.serving import CheckedChild
from ncnnkit.errors import DeviceError, RecipeError, RuntimeFailure, ToolError
from ncnnkit.quantization.bias import correct_bias
from ncnnkit.quantization.calibration import Observed, calibrate, observe
from ncnnkit.recipe import Recipe
from ncnnkit.samples.images import ImageSet
from ncnnkit.samples.stream import ArraySamples, Sample, ahead
from ncnnkit.tasks.classification import Classification

NUMBERS = st.floats(width=64, allow_nan=False, allow_infinity=False)


def bits(seen: Observed) -> tuple[Any, ...]:
    """Everything that was observed, bit by bit."""
    return (
        [
            (s.images, s.method, name, b.width, b.absmax, b.count, b.histogram.tobytes())
            for s in seen.batches
            for name, b in s.blobs.items()
        ],
        seen.ranges.tobytes(),
        {name: values.tobytes() for name, values in seen.channels.items()},
    )


def figures(errors: Errors) -> tuple[Any, ...]:
    """Every figure, bit by bit."""
    return errors.samples, errors.relative, errors.mse, errors.figures(), errors.result(["out0"]), errors.rows


# ------------------------------------------------------------------------------------------------------ exact sums


@given(st.lists(NUMBERS, max_size=30), st.randoms(use_true_random=False), st.integers(0, 20))
def test_a_sum_does_not_depend_on_the_order_or_the_split(
    values: list[float], shuffled: random.Random, cut: int
) -> None:
    whole = sum(map(Fraction, values), Fraction(0))
    try:
        expected = float(whole)
    except OverflowError:
        expected = math.inf if whole > 0 else -math.inf
    mixed = list(values)
    shuffled.shuffle(mixed)
    parts = [ExactSum(), ExactSum()]
    for index, value in enumerate(mixed):
        parts[index >= cut].add(value)
    parts[1].merge(parts[0])
    assert parts[1].value == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, math.inf, -2.0], math.inf),
        ([math.inf, -math.inf], math.nan),
        ([1.0, math.nan], math.nan),
        ([5e-324, -5e-324], 0.0),
        ([1.7e308, 1.7e308, -1.7e308], 1.7e308),
        ([1.7e308, 1.7e308], math.inf),
    ],
)
def test_sums_of_odd_numbers(values: list[float], expected: float) -> None:
    total = ExactSum()
    for value in values:
        total.add(value)
    assert total.value == expected or (math.isnan(expected) and math.isnan(total.value))


@settings(deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 1 << 30))
def test_errors_of_batches_merge_to_those_of_all_samples(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = sum(sizes)
    ours, theirs = (rng.standard_normal((count, 10)) * 10.0 ** rng.integers(-9, 9, (count, 1)) for _ in range(2))
    whole, merged, start = Errors(Classification()), Errors(Classification()), 0
    for a, b in zip(ours, theirs):
        whole.add([a], [b], truth=3)
    for size in sizes:
        part = Errors(Classification())
        for index in range(start, start + size):
            part.add([ours[index]], [theirs[index]], truth=3)
        start += size
        merged.merge(pickle.loads(pickle.dumps(part)))
    assert figures(merged) == figures(whole)


# ------------------------------------------------------------------------------------------------------- the map


class Backwards(ThreadPoolExecutor):
    """Lets the later of two functions finish first."""

    def submit(self, function: Any, /, *arguments: Any, **named: Any) -> Future[Any]:
        number = arguments[0]

        def later() -> Any:
            time.sleep(0.02 * (1 - number % 2))
            return function(*arguments)

        return super().submit(later)


def test_results_come_in_the_order_of_the_batches() -> None:
    finished: list[int] = []
    with Backwards(4) as pool:
        made = list(map_batches(lambda n: n * n, [(n,) for n in range(10)], as_workers(pool), finished.append))
    assert made == [n * n for n in range(10)]
    assert sorted(finished) == list(range(10))
    assert finished != sorted(finished)


def test_only_a_few_batches_are_taken_ahead() -> None:
    taken: list[int] = []

    def coming() -> Iterator[tuple[int]]:
        for number in range(100):
            taken.append(number)
            yield (number,)

    with open_workers(count=3) as workers:
        for done, _ in enumerate(map_batches(abs, coming(), workers), 1):
            assert len(taken) <= done + AHEAD * workers.count


class Losing:
    """A function whose worker is lost the first times it has a batch."""

    def __init__(self, losses: int) -> None:
        self._left, self._lock = {4: losses}, threading.Lock()

    def __call__(self, number: int) -> int:
        with self._lock:
            self._left[number] = self._left.get(number, 0) - 1
            if self._left[number] >= 0:
                raise WorkerLost("ncnn died: killed")
        return number


def test_a_batch_whose_worker_is_lost_runs_again() -> None:
    with open_workers(count=2) as workers:
        assert list(map_batches(Losing(TRIES - 1), [(n,) for n in range(9)], workers)) == list(range(9))


def test_a_batch_that_loses_every_worker_is_an_error_or_has_a_result_of_its_own() -> None:
    rows = [(n,) for n in range(9)]
    with open_workers(count=2) as workers:
        with pytest.raises(RuntimeFailure, match="ncnn died: killed"):
            list(map_batches(Losing(TRIES), rows, workers))
        found = list(map_batches(Losing(TRIES), rows, workers, instead=lambda number, why: -number))
    assert found == [0, 1, 2, 3, -4, 5, 6, 7, 8]


def test_an_error_stops_the_workers() -> None:
    stopped: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        workers = as_workers(pool)
        workers.ends(stopped.append)
        token = workers.token
        with pytest.raises(ZeroDivisionError):
            list(map_batches(lambda n: 1 // (n - 3), [(n,) for n in range(100)], workers))
    assert stopped == [token]
    assert workers.token != token


# ------------------------------------------------------------------------------- the same result however it is divided


def observed(workers: Workers, method: str = "mse") -> Observed:
    return observe(
        small(), stream(samples(23)), method=method, batches=4, ranges=True, channels=[0, 5, 22], workers=workers
    )


@pytest.mark.parametrize("method", ["mse", "kl"])
def test_calibration_does_not_depend_on_the_batches(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for processes, most in ((1, 23), (1, 1), (3, 2), (2, 5)):
        monkeypatch.setattr(batches, "MOST", most)
        monkeypatch.setattr(batches, "SHARE", 1 / 23)
        with open_workers(count=processes) as workers:
            found.append(bits(observed(workers, method)))
    assert all(each == found[0] for each in found)


def test_biases_do_not_depend_on_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, given = small(), stream(samples(9))
    int8 = nk.quantize(exact, calibrate(exact, samples(9)), target="x86")
    found = []
    for processes, most in ((1, 9), (2, 1), (3, 4)):
        monkeypatch.setattr(batches, "MOST", most)
        graph = correct_bias(exact, int8, given, threads=processes)
        found.append([layer.array("bias").tobytes() for layer in graph.layers if "bias" in layer.weights])
    assert found[0] == found[1] == found[2]


def judged(workers: Workers, folder: Path) -> list[tuple[Any, ...]]:
    exact, given = small(), stream(samples(11))
    versions = [Version(Artifact.made(small(seed), "fp32"), exact.outputs) for seed in (0, 1, 2)]
    reference = outputs_over(versions[0], given, folder, workers)
    return [figures(errors) for errors in errors_over(versions, given, reference, workers, task=Classification())]


def test_errors_do_not_depend_on_the_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for processes, most in ((1, 11), (3, 1), (2, 4)):
        monkeypatch.setattr(batches, "MOST", most)
        with open_workers(count=processes) as workers:
            found.append(judged(workers, tmp_path / f"{processes}"))
    assert found[0] == found[1] == found[2]
    assert found[0][0][1] == 0.0 < found[0][1][1]


def test_any_executor_runs_batches() -> None:
    """Functions, networks and samples go to other processes, and come back the same."""
    with ProcessPoolExecutor(2) as pool:
        elsewhere = calibrate(small(), samples(9), workers=pool)
    here = calibrate(small(), samples(9), threads=1)
    for name, blob in here.blobs.items():
        assert np.array_equal(blob.histogram, elsewhere.blobs[name].histogram)
        assert (blob.absmax, blob.count) == (elsewhere.blobs[name].absmax, elsewhere.blobs[name].count)


# -------------------------------------------------------------------------------------------------- lost processes


def test_a_serving_process_that_is_killed_in_the_middle_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    honest, asked = CheckedChild.ask, list[str]()

    def ask(self: CheckedChild, op: str, *rest: Any, **fields: Any) -> Any:
        asked.append(op)
        if asked.count("tally") == 6 and op == "tally":
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        return honest(self, op, *rest, **fields)

    with open_workers(count=2) as workers:
        expected = bits(observed(workers))
        monkeypatch.setattr(CheckedChild, "ask", ask)
        assert bits(observed(workers)) == expected
    assert asked.count("tally") > 23, "the samples of the lost batch ran again"


def test_a_network_that_always_crashes_ends_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(self: CheckedChild, op: str, *rest: Any, **fields: Any) -> Any:
        self._process.send_signal(signal.SIGSEGV)
        self._process.wait()
        return honest(self, op, *rest, **fields)

    honest = CheckedChild.ask
    monkeypatch.setattr(CheckedChild, "ask", ask)
    with pytest.raises(RuntimeFailure, match=r"calibration: ncnn died: .*SIGSEGV"):
        calibrate(small(), samples(3), threads=1)


def test_no_process_is_left_when_workers_are_closed() -> None:
    begun: list[int] = []

    class Noted(ArraySamples):
        def __getitem__(self, index: int) -> Sample:
            begun.extend(children())
            return super().__getitem__(index)

    with open_workers(count=2) as workers:
        observe(small(), Noted((samples(8),)), workers=workers)
    assert begun
    assert not set(begun) & set(children())


# ------------------------------------------------------------------------------------------------ samples elsewhere


def test_a_pickled_batch_holds_only_its_own_samples(tmp_path: Path) -> None:
    many = stream(samples(100))
    few = pickle.dumps(many.subset([3, 4]))
    assert len(few) < 2 * len(pickle.dumps(samples(2)))
    assert np.array_equal(pickle.loads(few)[1][0], many[4][0])


def test_a_pickled_set_of_images_holds_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(3):
        Image.new("RGB", (8, 8), (number * 50, 0, 0)).save(tmp_path / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    found = nk.open_images(".", nk.Preprocess(), [nk.InputSpec("in0", (3, 8, 8))])
    content = pickle.dumps(found.subset([2]))
    monkeypatch.chdir("/")
    again = pickle.loads(content)
    assert isinstance(again, ImageSet)
    assert np.array_equal(
        again[0][0], nk.open_images(tmp_path, nk.Preprocess(), [nk.InputSpec("in0", (3, 8, 8))])[2][0]
    )


def test_one_item_is_made_while_another_is_used() -> None:
    making: list[int] = []

    def items() -> Iterator[int]:
        for number in range(3):
            making.append(number)
            yield number

    for number in ahead(items()):
        deadline = time.monotonic() + 5
        while len(making) < min(number + 2, 3) and time.monotonic() < deadline:
            time.sleep(0.001)
        assert making == list(range(min(number + 2, 3)))


def test_errors_of_what_is_made_ahead_are_raised() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(ahead(items()))


# ------------------------------------------------------------------------------------------------------- --scheduler


@pytest.mark.parametrize("scheduler", ["dask", "10.0.0.5:8786", "http://10.0.0.5", "tcp://"])
def test_a_scheduler_is_local_or_an_address(scheduler: str) -> None:
    with pytest.raises(RecipeError, match=r"unknown scheduler .*tcp://10\.0\.0\.5:8786"):
        Recipe("m.param", scheduler=scheduler)


def test_without_dask_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ToolError, match=r"pip install 'ncnnkit\[cluster\]'"), open_workers("local"):
        pass


def test_dask_is_not_imported_without_a_scheduler() -> None:
    code = (
        "import sys, numpy as np; sys.path.insert(0, 'tests'); from networks import small, samples\n"
        "import ncnnkit as nk; nk.calibrate(small(), samples(2), threads=1)\n"
        "assert not {'dask', 'distributed'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


@pytest.fixture(scope="module")
def dask() -> Iterator[Workers]:
    pytest.importorskip("distributed")
    before = dict(os.environ)
    with open_workers("local", 2) as workers:
        assert os.environ == before, "what is started later does not inherit OMP_NUM_THREADS=1"
        yield workers


@pytest.mark.slow
def test_where_no_scheduler_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(batches, "PATIENCE", 1.0)
    with pytest.raises(DeviceError, match="no Dask scheduler answers"), open_workers("tcp://127.0.0.1:9"):
        pass


@pytest.mark.slow
def test_a_cluster_gives_the_same_as_this_machine(dask: Workers, tmp_path: Path) -> None:
    with open_workers(count=1) as here:
        assert bits(observed(dask)) == bits(observed(here))
        assert judged(dask, tmp_path / "there") == judged(here, tmp_path / "here")
    assert dask.count == 2
    assert "dashboard at http" in dask.said


def ignores_interrupts() -> bool:
    return signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.slow
def test_local_workers_leave_an_interrupt_to_the_command() -> None:
    """Otherwise each prints a traceback when the user presses Ctrl-C."""
    pytest.importorskip("distributed")
    with open_workers("local", 1) as workers:
        assert list(map_batches(ignores_interrupts, [()], workers)) == [True]


def other_versions(are: bool) -> None:
    batches.__dict__["versions"] = (lambda: ("0.0.1", "1.0")) if are else versions


@pytest.mark.slow
def test_a_worker_of_another_version_that_joins_later_is_refused_by_name(dask: Any) -> None:
    address = sorted(dask._client.run(other_versions, True))[0]
    try:
        said = rf"worker tcp://\S+ has ncnnkit 0\.0\.1 with ncnn 1\.0; here they are {versions()[0]}"
        with pytest.raises(DeviceError, match=said) as raised:
            list(map_batches(pow, [(2, 3)] * 8, dask))
        assert address.rpartition(":")[0] in str(raised.value)
    finally:
        dask._client.run(other_versions, False)
    assert list(map_batches(pow, [(2, 3)] * 8, dask)) == [8] * 8


@pytest.mark.slow
def test_sensitivity_is_the_same_on_a_cluster(dask: Workers) -> None:
    graphs = [small(seed) for seed in range(5)]
    found = []
    for workers in (dask, None):
        with Judge(small(), stream(samples(6)), workers=workers) as judge:
            found.append([figures(errors) for errors in judge.here(graphs)])
    assert found[0] == found[1]


class Slow(ArraySamples):
    """Samples that take a while to read, there as here."""

    def __getitem__(self, index: int) -> Sample:
        time.sleep(0.1)
        return super().__getitem__(index)

    def __reduce__(self) -> tuple[Any, ...]:
        return Slow, (tuple(zip(*super().__iter__())),)


@pytest.mark.slow
def test_a_worker_of_a_cluster_that_is_killed_in_the_middle_changes_nothing(dask: Any) -> None:
    with open_workers(count=1) as here:
        expected = bits(observe(small(), stream(samples(23)), batches=4, workers=here))
    victim = sorted(dask._client.run(os.getpid).values())[0]
    killer = threading.Timer(0.5, os.kill, (victim, signal.SIGKILL))
    killer.start()
    found = observe(small(), Slow((samples(23),)), batches=4, workers=dask)
    killer.join()
    assert bits(found) == expected
    assert not Path(f"/proc/{victim}/task/{victim}/children").exists()


@pytest.mark.slow
def test_a_command_runs_on_a_cluster_and_says_where(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    np.save(tmp_path / "x.npy", samples(8))
    nk.save(small(), tmp_path / "m.param")
    tables: list[str] = []
    for more in ([], ["--scheduler", "local", "--threads", "2"]):
        table = tmp_path / f"{len(tables)}.table"
        command = ["calibrate", str(tmp_path / "m.param"), "--images", str(tmp_path / "x.npy"), "-o", str(table)]
        done = subprocess.run([sys.executable, "-m", "ncnnkit", *command, *more], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        tables.append(table.read_text())
    assert "2 Dask workers, dashboard at http" in done.stderr
    assert tables[0] == tables[1]


def test_the_network_of_a_batch_takes_its_files_along(tmp_path: Path) -> None:
    from ncnnkit.device.crew import Net

    graph = network("Convolution c 1 1 in0 out0 0=8 1=3 4=1 5=1 6=288")
    with open_workers(count=1) as workers:
        net = Net(graph, workers)
        content = pickle.dumps(net)
        del net
        again = pickle.loads(content)
        x = samples(1, (4, 5, 6))[0]
        with again.process() as child:
            _, (made,) = child.ask("run", [x])
    with nk.Session(graph, threads=1) as session:
        assert np.array_equal(made, session.run(x))
