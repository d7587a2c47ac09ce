"""Requirements of a model: parsing, when they hold, and their excess."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ncnnkit.comparison.accuracy import Errors
from ncnnkit.errors import RecipeError
from ncnnkit.plan.requirement import Requirement, Requirements
from ncnnkit.tasks import Figure, named
from ncnnkit.tasks.classification import Classification
from ncnnkit.tasks.table import all_figures
from ncnnkit.tasks.tensor import Tensors


@pytest.mark.parametrize(
    ("text", "figure", "bound", "said"),
    [
        ("cosine>=0.999", "cosine", 0.999, "cosine ≥ 0.999"),
        (" sqnr >= 30 ", "sqnr", 30, "SQNR ≥ 30 dB"),
        ("sqnr>=-3", "sqnr", -3, "SQNR ≥ -3 dB"),
        ("mse<=1e-4", "mse", 1e-4, "MSE ≤ 0.0001"),
        ("mse<=0", "mse", 0, "MSE ≤ 0"),
        ("max_error<=0.5", "max_error", 0.5, "largest error ≤ 0.5"),
        ("top1_agreement>=99.5%", "top1_agreement", 0.995, "top-1 agreement ≥ 99.5 %"),
        ("top1_agreement>=1", "top1_agreement", 1, "top-1 agreement ≥ 100 %"),
        ("top1>=0.75", "top1", 0.75, "top-1 accuracy ≥ 75 %"),
    ],
)
def test_parsing_requirements(text: str, figure: str, bound: float, said: str) -> None:
    found = Requirement.parse(text)
    assert found.figure is all_figures()[figure]
    assert found.bound == pytest.approx(bound)
    assert str(found) == said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is not a requirement"), ("cosine", "is not a requirement"), ("sqnr>=", "is not a requirement"),
        ("mse<=--1", "is not a number"), ("sqnr>=e", "is not a number"), ("sqnr>=1.2.3", "is not a number"),
        ("cosine>=0.9 and more", "is not a requirement"),
        ("cosine<=0.9", "more is better"), ("mse>=1", "less is better"),
        ("psnrs>=3", "unknown figure 'psnrs'"), ("sqnr>=30%", "not measured in percent"),
        ("cosine>=0.99%", "not measured in percent"), ("mse<=-1", "rounds values can have mse"),
        ("cosine>=1", "can have cosine 1"),
        ("cosine>=1.5", "can have cosine"), ("mse<=1e999", "can have mse"), ("top1_agreement>=101%", "can have top1"),
    ],
)  # fmt: skip
def test_invalid_requirements_are_refused(text: str, said: str) -> None:
    with pytest.raises(RecipeError, match=said) as raised:
        Requirement.parse(text)
    assert repr(text) in str(raised.value)


def test_a_latency_beside_figures() -> None:
    for text in ("20ms", "20", " 20.0 ms ", "20."):
        assert Requirements.parse([], text).max_latency_ms == 20
    both = Requirements.parse(["sqnr>=30", "cosine>=0.99"], "0.5ms")
    assert str(both) == "SQNR ≥ 30 dB, cosine ≥ 0.99, latency ≤ 0.5 ms"
    with pytest.raises(RecipeError, match="sqnr is required twice"):
        Requirements.parse(["sqnr>=30", "sqnr>=20"])


@pytest.mark.parametrize("text", ["0", "0ms", "-1ms", "ms", ".", "1.2.3ms", "20s", "fast", "1e3ms", 400 * "9"])
def test_invalid_latencies_are_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="is not a latency"):
        Requirements.parse(["sqnr>=30"], text)


def test_unsatisfied_requirements_are_described() -> None:
    texts = ["cosine>=0.999", "sqnr>=30", "mse<=0.01", "max_error<=1", "top1_agreement>=99%", "top1>=75%"]
    all_of_them = Requirements.parse(texts, "20ms")
    bad = {"cosine": 0.99, "sqnr": 20.0, "mse": 0.1, "max_error": math.nan, "top1_agreement": None}
    assert all_of_them.unmet(bad, 21.5) == [
        "cosine 0.99 is below 0.999",
        "SQNR 20 dB is below 30 dB",
        "MSE 0.1 is above 0.01",
        "largest error is not a number",
        "top-1 agreement is not known: it could not be computed on these samples",
        "top-1 accuracy is not known: it needs --labels",
        "latency 21.5 ms is above 20 ms",
    ]
    good = {"cosine": 1.0, "sqnr": math.inf, "mse": 0.0, "max_error": 0.0, "top1_agreement": 0.99, "top1": 0.76}
    assert all_of_them.hold(good, 20.0)
    assert all_of_them.unmet(good, None) == ["latency is not known: it was not timed"]
    assert all_of_them.unmet(good, math.nan) == ["latency nan ms is above 20 ms"]
    assert Requirements().hold({}, None)
    assert [r.figure.name for r in all_of_them.without_labels().figures][-1] == "top1_agreement"


def test_a_task_has_its_own_figures() -> None:
    map60 = Figure("map60", "mAP at 0.6", "share", True, lambda v: (1 - v) ** 2, lambda v: 0 <= v <= 1)

    class Own(Tensors):
        figures = named(map60)

    found = Requirements.parse(["map60>=98%"], task=Own)
    assert found.unmet({"map60": 0.9}, None) == ["mAP at 0.6 90 % is below 98 %"]
    with pytest.raises(RecipeError, match="one of cosine, sqnr"):
        Requirements.parse(["map60>=98%"])


def errors_of(outputs: list[list[np.ndarray]], reference: list[list[np.ndarray]]) -> Errors:
    errors = Errors(Classification())
    for ours, theirs in zip(outputs, reference):
        errors.add(ours, theirs)
    return errors


@given(
    st.sampled_from(["cosine", "sqnr", "mse", "max_error"]), st.floats(1e-4, 0.1), st.floats(0.2, 5), st.integers(0, 99)
)
@settings(deadline=None, max_examples=60)
def test_the_excess_is_the_noise_power_over_the_allowed(figure: str, noise: float, times: float, seed: int) -> None:
    reference = np.random.default_rng(seed).standard_normal(50)
    error = np.random.default_rng(seed + 1).standard_normal(50)
    error -= reference * (error @ reference) / (reference @ reference)
    found = errors_of([[reference + noise * error]], [[reference]]).figures()[figure]
    louder = errors_of([[reference + noise * math.sqrt(times) * error]], [[reference]]).figures()[figure]
    assert found is not None
    assert louder is not None
    same = Requirement(all_figures()[figure], found)
    assert same.excess(found) == pytest.approx(1, rel=1e-6)
    assert same.excess(louder) == pytest.approx(times, rel=0.05)
    if abs(times - 1) > 0.1:
        assert same.holds(louder) == (times < 1)


def test_the_worst_output_decides() -> None:
    rng = np.random.default_rng(0)
    reference = [[rng.uniform(0, 320, 50), rng.uniform(0, 1, 10)] for _ in range(3)]
    ruined = [[large, np.zeros_like(small)] for large, small in reference]
    figures = errors_of(ruined, reference).figures()
    assert figures["sqnr"] == pytest.approx(0)
    assert figures["cosine"] == 0
    assert Requirements.parse(["sqnr>=20"]).excess(figures) == pytest.approx(100)
    assert not Requirements.parse(["cosine>=0.99"]).hold(figures, None)


def test_equal_outputs_satisfy_every_requirement() -> None:
    reference = [[np.arange(10.0), np.zeros(4)]]
    everything = Requirements.parse(["cosine>=0.9999999", "sqnr>=200", "mse<=0", "max_error<=0"])
    exact = errors_of(reference, reference).figures()
    assert everything.hold(exact, None)
    assert everything.excess(exact) == 0
    off = errors_of([[reference[0][0], np.ones(4)]], reference).figures()
    assert Requirement.parse("sqnr>=20").excess(off["sqnr"] or 0) == math.inf
    assert Requirement.parse("mse<=0").excess(off["mse"] or 0) == math.inf


def test_outputs_that_are_not_numbers_satisfy_no_requirement() -> None:
    reference = [[np.ones(4)], [np.ones(4)]]
    for bad in (math.nan, math.inf):
        errors = errors_of([[np.array([1, bad, 1, 1])], [np.ones(4)]], reference)
        assert errors.relative == math.inf
        for text in ("cosine>=-1", "sqnr>=-300", "mse<=1e300", "max_error<=1e300", "top1_agreement>=1%"):
            requirement = Requirements.parse([text])
            if text != "cosine>=-1":
                assert not requirement.hold(errors.figures(), None), text
        assert Requirements.parse(["mse<=1"]).excess(errors.figures()) == math.inf


def test_changed_classes_count() -> None:
    reference = [[row] for row in np.eye(10)]
    outputs = [[np.eye(10)[3]], *reference[1:]]  # one in ten
    figures = errors_of(outputs, reference).figures()
    assert figures["top1_agreement"] == pytest.approx(0.9)
    assert Requirements.parse(["top1_agreement>=90%"]).hold(figures, None)
    # The share grows with the amplitude of the noise: twice the allowed share is four times the power.
    assert Requirements.parse(["top1_agreement>=95%"]).excess(figures) == pytest.approx(4)
    assert errors_of([[np.ones(3), np.ones(3)]], [[np.ones(3), np.ones(3)]]).figures()["top1_agreement"] is None


def test_a_sample_with_little_signal_does_not_decide_the_cosine() -> None:
    """A text detector's map is almost empty on some images."""
    full, empty = np.full(100, 0.5), np.full(100, 1e-5)
    flipped = errors_of([[full], [-empty]], [[full], [empty]])
    assert flipped.figures()["cosine"] == pytest.approx(1, abs=1e-9)


def test_a_record_keeps_its_figures() -> None:
    rng = np.random.default_rng(0)
    scores, zeros = rng.standard_normal((3, 10)), np.zeros(4)
    noisy = [[row + 0.1 * rng.standard_normal(10)] for row in scores]
    for outputs, reference in (
        (noisy, [[row] for row in scores]),
        ([[row, zeros] for row in scores], [[row, zeros] for row in scores]),
        ([[row, zeros + 1] for row in scores], [[row, zeros] for row in scores]),
    ):
        errors = errors_of(outputs, reference)
        found = errors.result([f"out{i}" for i in range(len(reference[0]))]).figures()
        assert found == {name: value for name, value in errors.figures().items() if value is not None}
        assert set(found) >= {"cosine", "sqnr", "mse", "max_error"}
