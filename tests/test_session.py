"""Session: running a network, inputs that fit and do not fit, and a process that dies."""

from __future__ import annotations

import os
import signal
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import network, samples, small
from numpy.typing import NDArray

from ncnnkit.device.looking import look_at
from ncnnkit.device.session import Session
from ncnnkit.errors import FormatError, ModelError, RecipeError, RuntimeFailure
from ncnnkit.model import ncnnfile
from ncnnkit.model.precision import has_int8
from ncnnkit.quantization import quantize
from ncnnkit.quantization.calibration import calibrate

Array = NDArray[Any]


def test_one_output_is_an_array_and_several_are_a_tuple(tmp_path: Path) -> None:
    x = samples(1)[0]
    with Session(small()) as net:
        assert (net.inputs, net.outputs, net.gpu, net.precision) == (("in0",), ("out0",), None, "fp32")
        one = net.run(x)
        assert isinstance(one, np.ndarray)
        assert one.shape == (10,)
        assert np.array_equal(net.run(x[None]), one), "a batch axis of 1 is removed"
    two = network("Split s 1 2 in0 a b\nReLU r 1 1 a out0\nSigmoid g 1 1 b out1")
    with Session(two) as net:
        relu, sigmoid = net.run(samples(1, (4, 5, 6))[0])
    assert relu.min() == 0
    assert 0 < sigmoid.min() < sigmoid.max() < 1
    ncnnfile.save(small(), tmp_path / "m.param")
    with Session(tmp_path / "m.param") as net:
        assert np.array_equal(net.run(x), one)


def test_int8_is_chosen_for_an_int8_graph() -> None:
    graph = small()
    made = quantize(graph, calibrate(graph, samples(4)))
    assert (has_int8(graph), has_int8(made)) == (False, True)
    with Session(made) as net:
        assert net.precision == "int8"


def test_intermediate_blobs() -> None:
    with Session(small(), keep_blobs=True) as net:
        first, last = net.blobs(samples(1)[0], names=["b1", "out0"])
        assert first.shape == (8, 16, 16)
        assert np.array_equal(last, net.run(samples(1)[0]))


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([], "has 1 inputs, but 0 were given"),
        ([samples(1)[0], samples(1)[0]], "has 1 inputs, but 2 were given"),
        ([samples(1, (4, 16, 16))[0]], r"layer Convolution c1 expects 3 channels, but gets 4x16x16"),
        ([samples(1, (16, 16, 3))[0]], r"is that height x width x channels\? ncnn takes the channels first: 3x16x16"),
    ],
)
def test_inputs_that_do_not_fit(inputs: list[Array], said: str) -> None:
    with Session(small()) as net, pytest.raises(ModelError, match=said):
        net.run(*inputs)


def test_invalid_requests(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="unknown backend 'gpu'"):
        Session(small(), backend="gpu")
    with pytest.raises(RecipeError, match="unknown precision 'fp8'"):
        Session(small(), precision="fp8")
    with pytest.raises(FormatError):
        Session(tmp_path / "absent.param")


def test_a_dead_process_is_an_error_and_the_session_closed() -> None:
    with Session(small()) as net:
        assert net._child is not None
        pid = net._child._process.pid
        os.kill(pid, signal.SIGSEGV)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # a signal may arrive after the next answer
        with pytest.raises(RuntimeFailure, match="ncnn died: signal 11"):
            net.run(samples(1)[0])
        with pytest.raises(RuntimeFailure, match="this session is closed"):
            net.run(samples(1)[0])


def test_closing_leaves_no_files_and_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    net = Session(small())
    assert net._child is not None
    process = net._child._process
    assert list(tmp_path.iterdir())
    net.close()
    net.close()
    assert process.returncode is not None
    assert not list(tmp_path.iterdir())


def test_an_input_that_is_no_array_is_named() -> None:
    with Session(small()) as net, pytest.raises(ModelError, match="input 0 is not an array of numbers, but str"):
        net.run("x")  # type: ignore[arg-type]


def test_look_at_describes_this_machine() -> None:
    machine = look_at()
    assert machine.cores >= 1
    assert machine.machine == os.uname().machine
    assert isinstance(machine.vulkan, list)


@pytest.mark.vulkan
def test_vulkan_computes_the_same_as_the_cpu() -> None:
    x = samples(1)[0]
    with Session(small()) as cpu, Session(small(), backend="vulkan") as gpu:
        assert gpu.gpu is not None, "no Vulkan device: install mesa-vulkan-drivers and libvulkan1"
        expected, found = cpu.run(x), gpu.run(x)
    assert isinstance(expected, np.ndarray)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
