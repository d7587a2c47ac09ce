"""The verdict of a run on a model that does not work: the same as a person's, with the figure named."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import network
from numpy.typing import NDArray
from small_heads import detector, inputs

import ncnnkit as nk
from ncnnkit import pipeline
from ncnnkit.model import ncnnfile
from ncnnkit.model.graph import Graph, Layer
from ncnnkit.quantization import quantize_images
from ncnnkit.recipe import Recipe

Damage = Callable[[Graph], None]


def heads(graph: Graph) -> list[Layer]:
    return [layer for layer in graph.layers if layer.name.startswith("head") and layer.weights]


def bias(channels: slice, value: float, *, instead: bool = False) -> Damage:
    """Add a number to some output channels of the heads, or almost replace them by it."""

    def damage(graph: Graph) -> None:
        for layer in heads(graph):
            changed = layer.array("bias").copy()
            changed[channels] = value + (0 if instead else changed[channels])
            layer.weights["bias"] = changed

    return damage


def order(channels: Sequence[int]) -> Damage:
    """Change the order of the heads' output channels."""

    def damage(graph: Graph) -> None:
        for layer in heads(graph):
            for slot, shape in layer.slots():
                values = np.asarray(layer.weights[slot.name])
                if values.size >= len(channels):  # one scale for all inputs stays
                    layer.weights[slot.name] = values.reshape(len(channels), -1)[list(channels)].reshape(shape)

    return damage


def segmenter(path: Path) -> Path:
    """Three classes for each pixel of a map, by a convolution ``head``."""
    text = """
        Input       in0 0 1 in0 0=24 1=16 2=3
        Convolution c1 1 1 in0 b1 0=8 1=3 4=1 5=1 6=216 9=1
        Convolution head 1 1 b1 out0 0=3 1=1 5=1 6=24
    """
    ncnnfile.save(network(text, 0, **{"head.bias": 0.0}), path)
    return path


def map_of_text(path: Path) -> Path:
    """One map of values from 0 to 1: the probability that a pixel is bright."""
    text = """
        Input       in0 0 1 in0 0=24 1=16 2=3
        Convolution c1 1 1 in0 b1 0=8 1=3 4=1 5=1 6=216 9=1
        Convolution head 1 1 b1 b2 0=1 1=1 5=1 6=8
        Sigmoid     s 1 1 b2 out0
    """
    ncnnfile.save(network(text, 1, **{"head.weight": 1.0, "head.bias": -4.0}), path)
    return path


def classifier(path: Path) -> Path:
    """Scores of five classes, by an inner product ``head``."""
    text = """
        Input        in0 0 1 in0 0=24 1=16 2=3
        Convolution  c1 1 1 in0 b1 0=8 1=3 3=2 4=1 5=1 6=216 9=1
        Pooling      p 1 1 b1 b2 0=1 4=1
        InnerProduct head 1 1 b2 out0 0=5 1=1 2=40
    """
    ncnnfile.save(network(text, 0, **{"head.bias": 0.0}), path)
    return path


def judged(
    original: Path, samples: NDArray[np.float32], damage: Damage | None, monkeypatch: pytest.MonkeyPatch, task: str = ""
) -> Any:
    """A run with an int8 model that was damaged after quantising."""

    def damaged(*args: Any, **options: Any) -> Any:
        made = quantize_images(*args, **options)
        graph = made.graph.copy()
        if damage:
            damage(graph)
        return replace(made, graph=graph)

    monkeypatch.setattr("ncnnkit.reuse.quantize_images", damaged)
    for name, part in {"calibration": samples[::2], "evaluation": samples[1::2]}.items():
        np.save(original.with_name(f"{name}.npy"), part)
    recipe = Recipe(
        str(original), images=str(original.with_name("calibration.npy")), backends=("cpu",), effort="fast",
        eval_images=str(original.with_name("evaluation.npy")), seconds=0.02, rounds=1, precisions=("int8",), threads=1,
        task=task,
    )  # fmt: skip
    return pipeline.run(recipe, original.with_name("out"))


def test_a_right_model_is_recommended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run without damage. It shows that the other models are refused because of the damage."""
    found = judged(detector(tmp_path / "net.onnx"), inputs(12), None, monkeypatch)
    assert (found.task.name, found.recommended) == ("detection", "int8-cpu")


DAMAGED: dict[str, tuple[Callable[[Path], Path], str, Damage, str]] = {
    "scores of zero": (
        detector, "", bias(slice(4, 6), -60, instead=True),
        r"comes nearest: boxes kept 0 % is below 95 % and mean IoU is not known",
    ),
    "boxes five pixels off": (
        detector, "", bias(slice(0, 2), 5.0), r"comes nearest: boxes kept .* and mean IoU 6\d\.\d* % is below 90 %",
    ),
    "swapped classes of boxes": (
        detector, "", order([0, 1, 2, 3, 5, 4]), r"comes nearest: boxes kept .* and new boxes 4\d\.\d* % is above 5 %",
    ),
    "swapped classes of pixels": (
        segmenter, "segmentation", order([1, 0, 2]), r"comes nearest: mean IoU 4\d\.\d* % is below 95 %",
    ),
    "a map that is empty on the faint image": (
        map_of_text, "", bias(slice(0, 1), -1.0), r"comes nearest: mean IoU \d\d\.\d* % is below 95 %",
    ),
    "swapped classes": (
        classifier, "classification", order([1, 0, 2, 3, 4]), r"comes nearest: cosine 0\.\d* is below 0\.999",
    ),
}  # fmt: skip
"""Name -> (network, its task if the outputs do not show it, the damage, the expected verdict)."""


@pytest.mark.parametrize("wrong", DAMAGED)
def test_a_damaged_model_is_not_recommended(wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, task, damage, says = DAMAGED[wrong]
    original = make(tmp_path / "net.param" if make is not detector else tmp_path / "net.onnx")
    samples = inputs(12) if make is detector else inputs(12, (16, 24))
    samples[3] *= 0.45  # faint, and in the evaluation
    found = judged(original, samples, damage, monkeypatch, task)
    assert found.recommended is None
    assert re.search(says, found.why), found.why
    assert found.why in (tmp_path / "out/report.html").read_text().replace("&amp;", "&")


def test_a_completely_wrong_classifier_is_called_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(nk.NcnnkitError, match=r"wrong outputs: SQNR .* the first wrong layer is head"):
        judged(
            classifier(tmp_path / "net.param"),
            inputs(12, (16, 24)),
            order([1, 2, 3, 4, 0]),
            monkeypatch,
            "classification",
        )
