"""The recommended variant: requirements, ties within the spread, and variants that cannot be judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from ncnnkit.plan.requirement import Requirements
from ncnnkit.recommendation import compared, recommend, tied
from ncnnkit.record.variant import EMULATED, Accuracy, Latency, OutputError, Variant, speed_up

USUAL = Requirements.parse(["cosine>=0.999"])


def output(cosine: float = 1.0, sqnr_db: float | None = None, **fields: Any) -> OutputError:
    """The errors of an output. By default the SQNR follows from the cosine."""
    noise = float(fields.get("mse", 2 * (1 - cosine)))
    sqnr_db = sqnr_db if sqnr_db is not None or noise == 0 else -10 * math.log10(noise)
    made: dict[str, Any] = {"name": "y", "mse": noise, "sqnr_db": sqnr_db, "cosine": cosine, "max_error": noise}
    return OutputError(**made | fields)


def accuracy(*outputs: OutputError, **fields: Any) -> Accuracy:
    figures: dict[str, Any] = {
        "mse": max(o.mse for o in outputs), "max_error": max(o.max_error for o in outputs),
        "sqnr_db": min((o.sqnr_db for o in outputs if o.sqnr_db is not None), default=None),
        "cosine": min((o.cosine for o in outputs if o.cosine is not None), default=None),
    }  # fmt: skip
    return Accuracy(**figures | {"images": 20, "task": [], "outputs": list(outputs)} | fields)


def latency(ms: float, spread: float = 0.01) -> Latency:
    low, high = ms * max(0.01, 1 - spread / 2), ms * (1 + spread / 2)
    return Latency(min=low * 0.9, p25=low, median=ms, p75=high, p90=high * 1.1, samples=100)


def variant(name: str, ms: float | Latency | None, cosine: float = 1.0, **fields: Any) -> Variant:
    precision, _, backend = name.partition("@")[0].partition("-")
    made: dict[str, Any] = {
        "name": name, "precision": precision, "backend": backend, "device": name.partition("@")[2] or "local",
        "device_name": "a CPU", "threads": 2, "status": "ok", "reason": "", "files": None, "size_bytes": 1000,
        "latency_ms": latency(ms) if isinstance(ms, int | float) else ms, "latency_at": [], "load_ms": None,
        "first_ms": None, "cpus": [], "quantised_sqnr_db": None,
        "conditions": None, "sustained": None, "peak_memory_mb": None, "accuracy": accuracy(output(cosine)),
        "layers": [], "notes": [],
    }  # fmt: skip
    return Variant(**made | fields)


FOUR = [
    variant("fp32-cpu", 10.0, 1.0),
    variant("bf16-cpu", 8.0, 0.99992),
    variant("int8-cpu", 4.0, 0.995),
    variant("mixed-cpu", 6.0, 0.9993),
]


@pytest.mark.parametrize(
    ("require", "max_latency", "name"),
    [
        (["cosine>=0.999"], "", "mixed-cpu"),
        (["cosine>=0.9999"], "", "bf16-cpu"),
        (["cosine>=0.99"], "", "int8-cpu"),
        ([], "", "int8-cpu"),
        (["sqnr>=60"], "", "fp32-cpu"),
        (["mse<=0.001"], "", "bf16-cpu"),
        (["max_error<=0.02"], "5ms", "int8-cpu"),
        (["cosine>=0.99", "sqnr>=25"], "", "mixed-cpu"),
        (["top1_agreement>=0.9"], "", None),
        (["cosine>=0.999"], "7ms", "mixed-cpu"),
        (["cosine>=0.9999"], "7ms", None),
    ],
)
def test_the_fastest_that_satisfies_the_requirements(require: list[str], max_latency: str, name: str | None) -> None:
    assert recommend(FOUR, Requirements.parse(require, max_latency))[0] == name
    assert recommend(FOUR[::-1], Requirements.parse(require, max_latency))[0] == name


def test_why_names_the_requirement_and_its_cost() -> None:
    assert recommend(FOUR, USUAL)[1] == (
        "mixed-cpu is the fastest of the 3 that satisfy cosine ≥ 0.999 (cosine 0.99930, 6.00 ms), 1.67 times as fast "
        "as fp32-cpu; int8-cpu is faster (4.00 ms), but its cosine 0.995 is below 0.999"
    )
    assert recommend(FOUR, Requirements.parse(["cosine>=0.99995"]))[1].startswith(
        "fp32-cpu is the only variant that satisfies cosine ≥ 0.99995 (cosine 1.00000, 10.0 ms); int8-cpu is faster"
    )


def test_if_no_variant_satisfies_the_requirements_the_nearest_is_named() -> None:
    assert recommend(FOUR, Requirements.parse(["cosine>=0.9999"], "7.5ms")) == (
        None,
        "no variant satisfies cosine ≥ 0.9999, latency ≤ 7.5 ms, so none is recommended; "
        "bf16-cpu comes nearest: latency 8 ms is above 7.5 ms",
    )
    name, why = recommend(FOUR[2:], Requirements.parse(["cosine>=0.9995"]))
    assert name is None
    assert "mixed-cpu comes nearest: cosine 0.9993 is below 0.9995" in why


def test_the_worst_output_counts() -> None:
    """Boxes with values of some hundred hide wrong scores."""
    ruined = variant("int8-cpu", 5, accuracy=accuracy(output(0.99999), output(0.7, name="scores")))
    name, why = recommend([variant("fp32-cpu", 10), ruined], USUAL)
    assert name == "fp32-cpu"
    assert "int8-cpu is faster (5.00 ms), but its cosine 0.7 is below 0.999" in why


def test_an_output_without_a_signal_does_not_affect_the_sqnr() -> None:
    empty = output(1.0, name="empty", mse=1e-9)
    assert recommend([variant("fp32-cpu", 10, accuracy=accuracy(output(0.9999), empty))],
                     Requirements.parse(["sqnr>=30"]))[0] == "fp32-cpu"  # fmt: skip


@pytest.mark.parametrize(
    ("variants", "why"),
    [
        ([], "no variant ran as requested"),
        ([variant("fp32-cpu", None)], "no variant ran as requested"),
        ([variant("fp32-cpu", 1.0, status="crashed")], "no variant ran as requested"),
        ([variant("fp32-cpu", 1.0, notes=[EMULATED])], "nothing can be recommended"),
    ],
    ids=["none", "not timed", "crashed", "emulated"],
)
def test_nothing_to_recommend(variants: list[Variant], why: str) -> None:
    name, said = recommend(variants, USUAL)
    assert name is None
    assert why in said


def test_a_variant_that_cannot_be_judged_is_not_recommended() -> None:
    blind = "the original's outputs are zero for every sample"
    assert recommend(FOUR, USUAL, blind) == (
        None, f"{blind}, so no variant can be judged and none is recommended; the latencies are real"
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------------------- ties


def test_within_the_spread_the_more_exact_is_taken() -> None:
    """As measured on a CPU without fp16 arithmetic, where both run the same code."""
    fp32 = variant("fp32-cpu", latency(113, 5.2), 1.0)
    fp16 = variant("fp16-cpu", latency(97, 0.75), 0.999999)
    name, why = recommend([fp16, fp32], USUAL)
    assert name == "fp32-cpu"
    assert why.startswith("fp32-cpu is the most accurate of the fastest that satisfy cosine ≥ 0.999")
    assert "their latencies differ by less than their spread" in why
    assert "times as fast" not in why, "there is no difference to name"


def test_of_equally_exact_ties_the_smaller_is_taken() -> None:
    large = variant("fp32-cpu", latency(10, 0.2), accuracy=accuracy(output(sqnr_db=90.1)), size_bytes=2000)
    small = variant("fp16-cpu", latency(10.5, 0.2), accuracy=accuracy(output(sqnr_db=89.9)), size_bytes=1000)
    name, why = recommend([large, small], USUAL)
    assert name == "fp16-cpu"
    assert "fp16-cpu is the smallest of the fastest" in why


def test_a_variant_is_not_called_the_smallest_if_a_less_accurate_tie_is_smaller() -> None:
    rows = [
        variant("fp32-cpu", latency(10, 0.2), accuracy=accuracy(output(sqnr_db=140.1)), size_bytes=2000),
        variant("mixed-cpu", latency(10, 0.2), accuracy=accuracy(output(sqnr_db=139.9)), size_bytes=2010),
        variant("fp16-cpu", latency(10, 0.2), accuracy=accuracy(output(sqnr_db=80.0)), size_bytes=1000),
    ]
    name, why = recommend(rows, USUAL)
    assert name == "fp32-cpu"
    assert "fp32-cpu is one of the most accurate of the fastest" in why


def test_of_equal_ties_the_simplest_precision_is_taken_for_any_medians() -> None:
    """ncnn's LSTM and GRU run the same code in bf16 as in fp32, so chance decides which median is smaller."""
    for ours, theirs in ((10.0, 10.2), (10.2, 10.0)):
        rows = [variant("bf16-cpu", latency(theirs, 0.2)), variant("fp32-vulkan", latency(theirs, 0.2)),
                variant("fp32-cpu", latency(ours, 0.2))]  # fmt: skip
        assert recommend(rows, USUAL)[0] == "fp32-cpu"


def test_a_tie_is_an_overlap_of_the_middle_halves() -> None:
    def named(*variants: Variant) -> list[str]:
        return [v.name for v in tied(variants)]

    fast, slow = variant("int8-cpu", latency(10, 0.1)), variant("fp32-cpu", latency(11, 0.08))
    assert named(fast, slow) == ["int8-cpu"]  # 9.5 to 10.5, 10.56 to 11.44
    assert named(slow, variant("int8-cpu", latency(10, 0.12))) == ["fp32-cpu", "int8-cpu"]
    assert named(fast, variant("fp16-cpu", latency(10.4, 0.1)), variant("fp32-cpu", latency(30, 0.1))) == [
        "int8-cpu", "fp16-cpu"
    ]  # fmt: skip


Law = tuple[float, float, float]
"""Parameters of a variant's samples: median in ms, standard deviation of the logarithm, share of slow ones (1.7×)."""


def drawn(rng: np.random.Generator, law: Law) -> Latency:
    median, deviation, slow = law
    samples = median * np.exp(rng.normal(0, deviation, 120)) * np.where(rng.random(120) < slow, 1.7, 1.0)
    low, middle, high, tail = (float(v) for v in np.percentile(samples, [25, 50, 75, 90]))
    return Latency(min=float(samples.min()), p25=low, median=middle, p75=high, p90=tail, samples=120)


def recommended(rng: np.random.Generator, laws: Sequence[Law]) -> str | None:
    rows = (("fp32-cpu", 1.0), ("fp16-cpu", 0.999999), ("bf16-cpu", 0.9998), ("mixed-cpu", 0.9993))
    drift = float(np.exp(rng.normal(0, 0.1)))  # a whole run may be slower than another
    return recommend(
        [variant(name, drawn(rng, (law[0] * drift, *law[1:])), cos) for (name, cos), law in zip(rows, laws)], USUAL
    )[0]


@pytest.mark.parametrize(
    ("laws", "name"),
    [
        ([(10, 0.05, 0.0)] * 4, "fp32-cpu"),
        ([(10, 0.3, 0.0)] * 4, "fp32-cpu"),
        ([(10, 0.1, 0.4)] * 4, "fp32-cpu"),
        ([(10, 0.05, 0), (9.8, 0.05, 0), (10.1, 0.2, 0.3), (9.7, 0.05, 0)], "fp32-cpu"),
        ([(10, 0.03, 0), (10, 0.03, 0), (8, 0.03, 0), (6, 0.03, 0)], "mixed-cpu"),
        ([(10, 0.1, 0), (10, 0.1, 0), (6, 0.1, 0), (5.9, 0.1, 0)], "bf16-cpu"),
        ([(20, 0.1, 0.3), (20, 0.1, 0.3), (20, 0.1, 0.3), (8, 0.1, 0.3)], "mixed-cpu"),
    ],
    ids=["equal", "equal and noisy", "equal with two speeds", "nearly equal", "apart", "two apart", "apart and slow"],
)
def test_consecutive_runs_recommend_the_same(laws: list[Law], name: str) -> None:
    rng = np.random.default_rng(0)
    assert {recommended(rng, laws) for _ in range(300)} == {name}


# ------------------------------------------------------------------------------------------- what timings allow to say


def test_the_fastest_of_clear_timings() -> None:
    (said,) = compared([variant("fp32-cpu", 10.0), variant("bf16-cpu", 8.0)])
    assert said.startswith("bf16-cpu is the fastest, 1.25 times as fast as fp32-cpu (the middle half of the samples: ")
    assert "bf16-cpu 7.96 to 8.04 ms" in said


def test_timings_that_overlap_are_ties() -> None:
    rows = [variant(name, latency(ms, 0.2)) for name, ms in (("fp32-cpu", 10.0), ("bf16-cpu", 9.5), ("int8-cpu", 20.0))]
    (said,) = compared(rows)
    assert said.startswith("bf16-cpu and fp32-cpu are equally fast: their latencies differ by less than their spread")
    assert "int8" not in said


def test_too_noisy_is_a_result() -> None:
    (said,) = compared([variant("fp32-cpu", latency(10.0, 1.5)), variant("bf16-cpu", 8.0)])
    assert said.startswith("too noisy to say which is the fastest (the middle half of the samples: fp32-cpu 2.50")
    assert "--seconds" in said
    (said,) = compared([variant("fp32-cpu", latency(100.0, 1.5)), variant("bf16-cpu", 8.0)])
    assert said.startswith("bf16-cpu is the fastest"), "the noise of a row that is certainly slower does not matter"


def test_a_latency_with_nearly_all_samples_delayed_is_too_noisy() -> None:
    """The middle half is narrow, because every inference waited for another program. Only one sample shows it."""
    delayed = Latency(min=0.0451, p25=321.0, median=326.0, p75=355.0, p90=377.0, samples=12)
    (said,) = compared([variant("fp32-cpu", delayed), variant("fp16-cpu", 0.0489)])
    assert said.startswith("too noisy to say which is the fastest")
    assert "the fastest sample: 0.0451 ms" in said
    rows = [variant("fp32-cpu", delayed), variant("fp16-cpu", 0.0389)]
    (said,) = compared(rows)
    assert said.startswith("fp16-cpu is the fastest; fp32-cpu is too noisy to say by how much"), "it never was as fast"
    _, why = recommend(rows, USUAL)
    assert "times as fast as fp32-cpu" not in why, "6667 times is not true"


def test_outliers_are_named() -> None:
    far = Latency(min=0.05, p25=0.055, median=0.056, p75=0.057, p90=95.2, samples=100)
    said = compared([variant("fp32-cpu", far)])
    assert said == [
        "fp32-cpu: one of ten samples took at least 1700 times the median (95.2 ms in place of 0.0560 ms): another "
        "program ran, or the clock changed"
    ]


def test_devices_are_compared_by_themselves() -> None:
    rows = [variant(f"{p}-cpu@{d}", ms) for p, d, ms in (("fp32", "a", 9.0), ("int8", "a", 5.0), ("int8", "b", 1.0))]
    (said,) = compared(rows)
    assert said.startswith("int8-cpu@a is the fastest, 1.80 times as fast as fp32-cpu@a")
    assert compared([variant("fp32-cpu", 9.0, notes=[EMULATED]), variant("int8-cpu", 5.0, notes=[EMULATED])]) == []


def test_a_disturbed_latency_has_no_speed_up() -> None:
    steady, disturbed = variant("int8-cpu", 2.0), variant("int8-cpu", latency(2.0, 0.8))
    base, disturbed_base = variant("fp32-cpu", 4.0), variant("fp32-cpu", latency(4.0, 0.8))
    assert speed_up([base, steady], steady) == 2.0
    assert speed_up([base, disturbed], disturbed) is None
    assert speed_up([disturbed_base, steady], steady) is None


def test_a_detector_that_finds_nothing_is_named_as_the_reason() -> None:
    (unmet,) = Requirements.parse(["kept>=0.95"]).unmet({"kept": None}, 1.0)
    assert unmet == "objects kept is not known: the original finds no objects in these samples"
