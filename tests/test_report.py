"""report.html and the terminal: the report is self-contained, safe with any name, and right for every kind of run."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from test_schema import as_run, sample_run

from ncnnkit import formatting
from ncnnkit.comparison.guessing import Purpose
from ncnnkit.comparison.layers import Comparison
from ncnnkit.errors import StorageError, ToolError
from ncnnkit.plan.requirement import Requirements
from ncnnkit.recommendation import recommend
from ncnnkit.record.conversion import DecodedCheck, ShapeCheck
from ncnnkit.record.run import Picture
from ncnnkit.report import (
    comparison_table,
    console_table,
    converted,
    drawing,
    headline,
    html,
    layers,
    plan_table,
    plots,
    profile_table,
    shipping,
    write_report,
)
from ncnnkit.report.chart import Chart, place_labels
from ncnnkit.report.console import decoded_line
from ncnnkit.report.ship import Shipping
from ncnnkit.tasks.detection import Detection
from ncnnkit.tasks.tensor import Tensors
from ncnnkit.verdict import warn

NASTY = '</script><img src="http://evil.test/x" onerror=alert(1)><b>&amp;'


class Page(HTMLParser):
    """The elements of a report, its text, and its scripts' and style sheets' source."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.sources: dict[str, list[str]] = {"script": [], "style": []}
        self.words: list[str] = []
        self._inside = ""
        self.feed(text)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag if tag in self.sources else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        self.sources[self._inside].append(data) if self._inside else self.words.append(data)

    def having(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == tag and attributes.items() <= a.items()]


def page(run: dict[str, Any]) -> Page:
    return Page(html.render(as_run(run)))


def charts_in(parsed: Page) -> list[str]:
    """The titles of the charts on a page."""
    return [str(attributes["aria-label"]) for attributes in parsed.having("svg", **{"class": "chart"})]


def tradeoff(run: dict[str, Any]) -> Chart:
    read = as_run(run)
    drawn = plots.latency_against_error(read.variants, read.recommended, 0.999)
    assert drawn
    return drawn


def front(run: dict[str, Any]) -> Chart:
    plan = as_run(run).plan
    assert plan
    drawn = plots.pareto_front(plan)
    assert drawn
    return drawn


@pytest.fixture(scope="module")
def sample() -> Page:
    return page(sample_run())


# ------------------------------------------------------------------------------------------------------- one file


def test_nothing_is_loaded_from_anywhere(sample: Page) -> None:
    for tag, attributes in sample.elements:
        for name in ("src", "href", "srcset", "action", "data", "poster"):
            target = attributes.get(name)
            assert target is None or target.startswith(("#", "data:")), f"<{tag} {name}={target!r}>"
        assert not re.search(r"url\(|@import", attributes.get("style") or "")
    assert not re.search(r"url\(|@import", "".join(sample.sources["style"]))
    (policy,) = sample.having("meta", **{"http-equiv": "Content-Security-Policy"})
    assert str(policy["content"]).startswith("default-src 'none'")
    assert "http" not in str(policy["content"])


def test_charts_are_only_drawn_with_data(sample: Page) -> None:
    assert [chart.partition(" ")[0] for chart in charts_in(sample)] == ["Latency", "Predicted", "SQNR"]


def test_the_page_fits_a_phone(sample: Page) -> None:
    (viewport,) = sample.having("meta", name="viewport")
    assert viewport["content"] == "width=device-width, initial-scale=1"
    assert "prefers-color-scheme: dark" in "".join(sample.sources["style"])
    order = [(tag, attributes.get("class")) for tag, attributes in sample.elements if tag in ("div", "table")]
    tables = [i for i, (tag, _) in enumerate(order) if tag == "table"]
    assert tables
    assert all(str(order[i - 1][1]).startswith("scroll") for i in tables)
    assert all(a["width"] == "100%" for a in sample.having("svg", **{"class": "chart"}))


def test_every_table_has_a_caption(sample: Page) -> None:
    assert len(sample.having("caption")) == len(sample.having("table")) > 5


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_report(as_run(sample_run()), tmp_path / f"{name}.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.html", "b.html"]


def test_a_folder_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        write_report(as_run(sample_run()), tmp_path / "file" / "report.html")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ToolError) as error:
        write_report(as_run(sample_run()), tmp_path / "report.html")
    assert error.value.line() == "the report needs jinja2 (pip install jinja2)"
    assert not list(tmp_path.iterdir())


def test_importing_loads_nothing_heavy() -> None:
    code = "import sys, ncnnkit.report; print([m for m in ('jinja2', 'rich') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---------------------------------------------------------------------------------------------------------- safety


def nasty_run() -> dict[str, Any]:
    run = sample_run()
    run["model"].update(reference=NASTY)
    run["model"]["inputs"][0]["name"] = NASTY
    run["variants"][3]["name"] = run["recommended"] = NASTY
    run["variants"][3].update(device_name=NASTY, reason=NASTY, notes=[NASTY])
    run["variants"][3]["layers"][2].update(name=NASTY, sqnr_db=1.0)
    run["variants"][3]["layers"][3].update(type=NASTY)
    run["images"]["skipped"][0].update(name=NASTY, reason=NASTY)
    run["top5"][0]["reference"][0]["label"] = NASTY
    run["quantisation"]["trials"][0]["method"] = NASTY
    run["quantisation"]["layers"][23].update(name=NASTY, kept=NASTY)
    run["quantisation"]["stretching"][0]["image"] = NASTY
    run["plan"].update(requirements=NASTY)
    run["plan"]["layers"][2].update(name=NASTY, type=NASTY, choice=NASTY, why=NASTY)
    run["plan"]["layers"][2]["options"][0]["choice"] = NASTY
    run["recipe"].update(model=NASTY, labels=NASTY)
    run["preprocess_origin"] = NASTY
    run.update(why=NASTY, warnings=[NASTY], passes={NASTY: 1}, stages=[{"name": NASTY, "seconds": 1}])
    return run


def test_names_with_html_in_them_stay_text() -> None:
    parsed = page(nasty_run())
    assert not parsed.having("img")
    assert all(attributes.keys().isdisjoint({"onerror"}) for _, attributes in parsed.elements)
    assert len(parsed.sources["script"]) == len(page(sample_run()).sources["script"])
    assert parsed.text.count("onerror=alert(1)") >= 25


def test_a_layers_name_cannot_leave_the_strip() -> None:
    run = sample_run()
    layer = run["plan"]["layers"][2]
    layer["name"] = '"><b onclick="x'
    parsed = page(run)
    assert all("onclick" not in attributes for _, attributes in parsed.elements)
    assert parsed.having("span", title=f'"><b onclick="x: {layer["choice"]}')


# --------------------------------------------------------------------------------------------------------- content


def test_the_headline_is_the_recommendation(sample: Page) -> None:
    assert "Use int8-cpu . It takes 5.23 ms for one input" in sample.text
    assert "with 2 threads; fp32-cpu takes 10.2 ms." in sample.text
    assert "on 30 images: top-1 agreement 96.7 %" in sample.text
    assert "The reason: int8-cpu is the fastest of the 5" in sample.text


def test_every_variant_is_in_the_table(sample: Page) -> None:
    for variant in sample_run()["variants"]:
        assert f"{variant['name']} {variant['status']}" in sample.text
    assert len(sample.having("tr", **{"class": "ok best"})) == 1
    assert sample.text.count("fallback not as requested") == 2
    assert "bf16-vulkan: signal 11 (SIGSEGV) during 'run'" in sample.text
    assert "10.2 9.64 – 11.2 4.0 %, 142" in sample.text
    assert "31.2 12.5" in sample.text


def test_common_notes_of_variants_occur_once(sample: Page) -> None:
    assert sample.text.count("fp32-vulkan, fp16-vulkan: runs in software on the CPU: llvmpipe") == 1


def test_only_variants_that_ran_as_requested_are_coloured() -> None:
    points = tradeoff(sample_run()).points
    assert [p.label for p in points if p.kind == "ok"] == ["fp32-cpu", "fp16-cpu", "bf16-cpu", "int8-cpu", "mixed-cpu"]
    assert [p.label for p in points if p.kind == "fallback"] == ["fp32-vulkan", "fp16-vulkan"]
    assert [p.label for p in points if p.bold] == ["int8-cpu"]
    assert all(p.hollow == (p.kind == "fallback") for p in points)
    assert 10 ** points[3].y == pytest.approx(1 - 0.99951)
    assert 10 ** points[0].y == pytest.approx(plots.FLOOR)


def test_of_many_variants_only_the_pareto_front_is_named() -> None:
    run = sample_run()
    run["variants"] += [
        {**run["variants"][2], "name": f"bf16-cpu@board{i}", "device": "local"} for i in range(plots.NAMED)
    ]
    points = tradeoff(run).points
    assert len(points) == 7 + plots.NAMED
    assert {p.label for p in points} == {"", "fp32-cpu", "int8-cpu", "mixed-cpu"}


def test_the_worst_layers_are_named(sample: Page) -> None:
    names = re.search(r"In int8, the 5 worst layers are (.*?)\. Layer", sample.text + " Layer")
    assert names
    assert re.findall(r"conv_\d+", names[1])[:5] == ["conv_22", "conv_19", "conv_16", "conv_13", "conv_10"]


def test_the_error_along_the_network_is_a_line_for_each_precision() -> None:
    run = sample_run()
    run["variants"][4]["layers"] = [{"name": "conv_3", "type": "Convolution", "sqnr_db": 41.0}]
    read = as_run(run)
    drawn = plots.along_the_network(layers.errors_of_precisions(read), [f"conv_{i}" for i in range(24)])
    assert drawn
    assert [(line.kind, len(line.points)) for line in drawn.lines] == [("int8", 23), ("mixed", 1)]
    assert drawn.lines[0].points[:2] == [(1, 34.5), (2, 45.0)]
    assert [p.hover for p in drawn.points] == ["conv_3\nmixed: 41.0 dB"]


def test_labels_are_only_shown_if_there_are_any(sample: Page) -> None:
    assert "83.3" in sample.text
    run = sample_run()
    for variant in run["variants"]:
        if variant["accuracy"]:
            del variant["accuracy"]["task"][1:]
    text = page(run).text
    assert "83.3" not in text
    assert "top-1 accuracy %" not in text
    assert "top-1 agreement %" in text


@pytest.mark.parametrize(
    ("sqnr_db", "cosine", "says"),
    [
        (None, 1.0, "were bitwise equal to those of the original"),
        (118.0, 1.0, "the normal accuracy of fp32"),
        (90.0, 1.0, "slightly below the 100 dB"),
        (60.0, 1.0, "This is low"),
        (10.0, 0.9, "The networks differ"),
    ],
)
def test_the_conversion_is_judged(sqnr_db: float | None, cosine: float, says: str) -> None:
    run = sample_run()
    run["conversion"].update(sqnr_db=sqnr_db, cosine=cosine, max_error=0.0 if sqnr_db is None else 0.1)
    assert says in page(run).text


@pytest.mark.parametrize(("engine", "exact"), [("onnxruntime", "the original"), ("ncnn", "ncnn in fp32")])
def test_the_first_paragraph_names_what_the_outputs_are_compared_with(engine: str, exact: str) -> None:
    run = sample_run()
    run["reference"]["engine"] = engine
    assert f"Compared with {exact}, its outputs have an SQNR of" in page(run).text
    for variant in run["variants"]:
        if variant["accuracy"]:
            variant["accuracy"].update(mse=0.0, sqnr_db=None)
    assert f"Its outputs are bitwise equal to those of {exact}." in page(run).text


# ---------------------------------------------------------------------------------------------- int8 and the plan


def quantised(**changes: Any) -> str:
    """The text of the report of a run whose quantisation is changed."""
    run = sample_run()
    run["quantisation"].update(changes)
    return page(run).text


def planned(**changes: Any) -> dict[str, Any]:
    run = sample_run()
    run["plan"].update(changes)
    return run


def test_what_was_tried_and_kept(sample: Page) -> None:
    assert "on 20 other images, which were held back" in sample.text
    assert "100 to fit int8 and 20 held back to choose methods, of 400; 30 for evaluation" in sample.text
    assert (
        "thresholds 0.0361 14.4 yes 4.12 channel migration 0.5 0.0407 13.9 no 5.03 zero points 0.0298 15.3 yes"
        in sample.text
    )


def test_too_few_images_to_hold_any_back() -> None:
    run = sample_run()
    run["images"]["calibration"] = run["quantisation"]["held_back"] = 4
    assert "on the same images, because there were too few to hold any back" in page(run).text


def test_the_layers_that_gained_most(sample: Page) -> None:
    table = sample.text.partition("Fitted")[2].partition("Number and choice")[0]
    assert re.findall(r"conv_\d+", table) == [f"conv_{i}" for i in range(23, 13, -1)]
    assert "conv_23 0.0023 0.00092 60.0 rounding, bias" in table
    assert "23 of 24 layers have a lower error after fitting" in sample.text
    unfitted = [{"name": "a", "before": 0.0, "after": 0.0, "kept": ""}]
    assert "Fitting lowered the error of none of the 1 layers" in quantised(layers=unfitted)
    assert "improved most" not in quantised(layers=[])


def test_whether_there_were_enough_images(sample: Page) -> None:
    assert "48 images would have been enough" in sample.text
    assert "16 0.0421 0.0366 – 0.055 1.17 ×" in sample.text
    assert "More images may still help: with fewer than these 80" in quantised(enough=None)
    assert "too few images to find out" in quantised(enough=None, counts=sample_run()["quantisation"]["counts"][:1])
    assert "Not examined at effort fast" in quantised(enough=None, counts=[], stretching=[], effort="fast")


def test_images_that_stretch_ranges_are_named(sample: Page) -> None:
    assert "night.jpg alone determines the range of 7 tensors, up to 2.41 times" in sample.text
    assert "No single image determines the range of a tensor" in quantised(stretching=[])


def test_images_that_look_alike_and_unlike(sample: Page) -> None:
    assert (
        "The evaluation images look like the calibration images: half of the evaluation images are within 1.02"
        in sample.text
    )
    text = quantised(likeness={"calibration": 1.5, "evaluation": 3.25})
    assert (
        "The evaluation images look unlike the calibration images : half of the evaluation images are at least 3.25"
        in text
    )
    assert "are within 1.50 of the others" in text
    assert "evaluation images look" not in quantised(likeness=None)


def test_the_plan_and_its_measurement(sample: Page) -> None:
    assert "Requirement: cosine ≥ 0.9999. On the held-back images the model satisfies it." in sample.text
    assert "Latency, ms 5.42 5.61 1.04 ×" in sample.text
    assert "0.0038 0.00402 1.06 ×" in sample.text
    assert "was changed once" in sample.text
    broken = page(planned(holds=False, measured_ms=None, repairs=0, predicted_noise=0.0)).text
    assert "the model does not satisfy it" in broken
    assert "Latency, ms 5.42 – –" in broken
    assert "was changed" not in broken
    assert "hollow point" not in broken
    late = page(planned(requirements="latency ≤ 2 ms", holds=False, unmet=["latency 3 ms is above 2 ms"])).text
    assert "the model does not satisfy it: latency 3 ms is above 2 ms." in late


def test_each_layer_of_the_plan_is_in_the_strip_and_the_table(sample: Page) -> None:
    layers = sample_run()["plan"]["layers"]
    strip = [a for a in sample.having("span") if "title" in a]
    assert [a["data-choice"] for a in strip] == [layer["choice"] for layer in layers]
    assert [a["title"] for a in strip] == [f"{layer['name']}: {layer['choice']}" for layer in layers]
    assert len(sample.having("span", **{"class": "badge precision"})) == len(layers)
    (figure,) = [a for a in sample.having("div", role="img") if str(a["class"]).startswith("strip")]
    assert str(figure["aria-label"]).endswith("12 int8, 6 int8-winograd, 3 fp32, 3 bf16")


def test_the_front_and_the_plan_on_it() -> None:
    drawn = front(sample_run())
    (curve,) = drawn.lines
    points = sample_run()["plan"]["front"]
    assert [x for x, _ in curve.points] == [point["ms"] for point in points]
    # Zero noise is drawn below the rest.
    assert [10**y for _, y in curve.points] == pytest.approx([0.021, 0.009, 0.0038, 0.0006, 0.00006])
    assert drawn.points[3].hover == "6.80 ms, noise over signal 0.0006\n9 layers in int8"
    assert drawn.y.ticks[0][1] == "0"
    plan, measured = drawn.points[5:]
    assert [(p.label, p.x, p.hollow) for p in (plan, measured)] == [("the plan", 5.42, False), ("measured", 5.61, True)]
    assert [10**p.y for p in (plan, measured)] == pytest.approx([3.8e-3, 4.02e-3])
    (alone,) = front(planned(measured_ms=None)).points[5:]
    assert alone.x == 5.42


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_a_front_of_one_plan(noise: float) -> None:
    one = planned(
        front=[{"ms": 2.0, "noise": noise, "int8": 1}], predicted_ms=2.0, predicted_noise=noise, measured_ms=None
    )
    drawn = front(one)
    assert (drawn.x.low, drawn.x.high) == (1.8, 2.2)
    assert drawn.y.low < drawn.y.high
    assert "1 layer in int8" in drawn.points[0].hover
    assert "Predicted latency" in " ".join(charts_in(page(one)))


def test_no_front_and_no_layers() -> None:
    parsed = page(planned(front=[], layers=[]))
    assert "Predicted latency" not in " ".join(charts_in(parsed))
    assert "Precision of each layer" not in parsed.text


def test_without_int8_there_is_no_section_on_it() -> None:
    text = page({**sample_run(), "quantisation": None, "plan": None}).text
    assert "How int8 was made" not in text
    assert "The mixed model" not in text


def warnings(images: int = 100, said: Mapping[str, Any] = MappingProxyType({}), **parts: Any) -> list[str]:
    """The warnings of a run without other warnings."""

    class Images:
        skipped = copies = ()

        def __len__(self) -> int:
            return images

    run = as_run({**sample_run(), **parts})
    quantised = "quantisation" in parts and run.quantisation
    quantisation = dataclasses.replace(quantised, lost=[]) if quantised else None
    plan = run.plan if "plan" in parts else None
    variants = [row for row in run.variants if row.status == "ok"] if "variants" in parts else []
    taken, check = cast(Any, Images()), dataclasses.replace(run.conversion, own=None)
    return warn(
        "torch", "the preset imagenet", taken, taken, check, variants, purpose=Purpose(Tensors(), "nothing is known"),
        quantisation=quantisation, plan=plan, **said,
    )  # fmt: skip


def test_random_weights_and_meaningless_outputs_are_named() -> None:
    (weights,) = warnings(said={"random_weights": True})
    assert weights.endswith("but the errors of int8 and mixed models mean nothing")
    (outputs,) = warnings(said={"blind": "the original's outputs are zero for every sample"})
    assert outputs.startswith("the original's outputs are zero for every sample: no variant can be judged")


def test_few_samples_are_named_as_they_were_used() -> None:
    """If nothing was quantised, nothing was calibrated."""
    assert warnings(images=4) == ["the errors were measured on 4 samples only"]
    run = sample_run()
    run["quantisation"].update(stretching=[], used=5, held_back=1)
    assert warnings(quantisation=run["quantisation"]) == ["int8 was calibrated with 6 samples; 50 to 200 are usual"]


def test_good_images_and_a_good_plan_give_no_warning() -> None:
    run = sample_run()
    run["quantisation"]["stretching"] = []
    assert warnings(quantisation=run["quantisation"], plan=run["plan"]) == []
    assert warnings() == []
    run["quantisation"]["likeness"] = run["plan"]["measured_ms"] = None
    assert warnings(quantisation=run["quantisation"], plan=run["plan"]) == []


def test_doubtful_images_give_a_warning() -> None:
    found = sample_run()["quantisation"]
    found["likeness"] = {"calibration": 1.5, "evaluation": 3.25}
    found["stretching"].append({"image": "dusk.jpg", "tensors": 1, "factor": 1.7})
    unlike, stretched = warnings(quantisation=found)
    assert unlike.startswith(
        "the evaluation images look unlike the calibration images: their distance is 3.25 standard"
    )
    assert "within 1.50 of each other" in unlike
    assert stretched.startswith("the calibration image night.jpg alone determines the range of 7 tensors, up to")
    assert "and 1 more" in stretched
    found.update(likeness=None, stretching=found["stretching"][1:])
    assert "dusk.jpg alone determines the range of one tensor" in warnings(quantisation=found)[0]


def test_a_plan_that_differs_from_its_prediction_gives_a_warning() -> None:
    plan = sample_run()["plan"]
    (said,) = warnings(plan={**plan, "holds": False})
    assert said.startswith("the mixed model does not satisfy cosine ≥ 0.9999")
    for measured in (4.5, 6.5):
        (said,) = warnings(**taking(measured, spread=0.01))
        assert said.startswith(f"the mixed model takes {measured:.2f} ms, but 5.42 ms were predicted")
        assert warnings(**taking(measured, spread=0.24)) == [], "noise explains it"
    assert warnings(**taking(6.2, spread=0.01)) == []


def test_a_plan_judged_by_few_predictions_gives_a_warning() -> None:
    """16 boxes without a loss do not show that at most 2 of 100 are lost."""
    few = Requirements.parse(["map50_95>=0.98", "kept>=0.95", "iou>=0.9"], task=Detection).too_few(
        {"map50_95": 16, "kept": 16, "new": 16}
    )
    (said,) = warnings(plan={**sample_run()["plan"], "few": few})
    assert said == (
        "the plan was judged on calibration samples, which hold only 16 boxes. Even if none of them is wrong, 19 % of "
        "others may be wrong: mAP50-95 ≥ 98 % needs 150"
    )
    assert Requirements.parse(["kept>=0.95"], task=Detection).too_few({"kept": 60}) == []
    assert Requirements.parse(["cosine>=0.999", "kept>=1"], task=Detection).too_few({"kept": 5}) == [], (
        "no number of boxes shows it"
    )


def test_few_predictions_in_the_evaluation_give_a_warning() -> None:
    run = sample_run()
    figure = {
        "name": "kept",
        "title": "boxes kept",
        "unit": "share",
        "value": 1.0,
        "low": 1.0,
        "high": 1.0,
        "count": 12,
    }
    for variant in run["variants"]:
        if variant["accuracy"]:
            variant["accuracy"]["task"] = [figure]
    (said,) = warnings(
        variants=run["variants"], said={"requirements": Requirements.parse(["kept>=0.95"], task=Detection)}
    )
    assert said.startswith("a model is judged on the evaluation samples, which hold only 12 boxes. Even if")
    assert said.endswith("25 % of others may be wrong: boxes kept ≥ 95 % needs 60")


def test_models_that_did_not_run_while_planning_are_named() -> None:
    (said,) = warnings(plan={**sample_run()["plan"], "refused": {"ncnn crashed (SIGSEGV)": 2}})
    assert said == ("2 models tried for the plan did not run, so their choices were left out: ncnn crashed (SIGSEGV)")


def taking(ms: float, spread: float) -> dict[str, Any]:
    """The fields of a run with this latency of the mixed model, and with a spread of each latency."""
    run = sample_run()
    for variant in run["variants"]:
        if variant["latency_ms"]:
            median = ms if variant["precision"] == "mixed" else variant["latency_ms"]["median"]
            low, high = median * (1 - spread / 2), median * (1 + spread / 2)
            variant["latency_ms"].update(p25=low, median=median, p75=high)
    return {"variants": run["variants"], "plan": {**run["plan"], "measured_ms": ms, "predicted_ms": 5.42}}


def test_the_mixed_model_can_be_recommended() -> None:
    variants = sample_run()["variants"]
    variants[4]["latency_ms"].update(p25=4.3, median=4.4, p75=4.5)
    rows = as_run({**sample_run(), "variants": variants}).variants
    name, why = recommend(rows, Requirements.parse(["cosine>=0.999"]))
    assert name == "mixed-cpu"
    assert why.startswith(
        "mixed-cpu is the fastest of the 5 that satisfy cosine ≥ 0.999 (cosine 0.99992, 4.40 ms), 2.31"
    )
    run = {**sample_run(), "variants": variants, "recommended": name, "why": why}
    assert "Use mixed-cpu . It takes 4.40 ms" in page(run).text
    assert shipped(run).files == ("tiny-mixed.param", "tiny-mixed.bin")


# ---------------------------------------------------------------------------------------------------- unusual runs


def failed_run() -> dict[str, Any]:
    run = sample_run()
    nothing = dict.fromkeys(("latency_ms", "load_ms", "peak_memory_mb", "accuracy"))
    for variant in run["variants"]:
        variant.update(nothing, status="crashed", reason="hung", layers=[])
    run.update(recommended=None, why="no variant ran to its end; the reasons stand beside each", top5=[])
    run.update(quantisation=None, plan=None)
    return run


def test_no_variant_ran() -> None:
    parsed = page(failed_run())
    assert "No variant can be recommended : no variant ran to its end" in parsed.text
    assert not charts_in(parsed)


def test_no_accuracy() -> None:
    run = sample_run()
    for variant in run["variants"]:
        variant["accuracy"] = None
    parsed = page(run)
    assert "Use int8-cpu" in parsed.text
    assert not any(chart.startswith("Latency") for chart in charts_in(parsed))


def test_a_network_that_does_not_classify() -> None:
    run = sample_run()
    run["model"]["outputs"] = [{"name": "boxes", "shape": [100, 4]}, {"name": "scores", "shape": [100]}]
    run["preprocess"] = None
    run["top5"] = []
    for variant in run["variants"]:
        if variant["accuracy"]:
            variant["accuracy"].update(dict.fromkeys(("top1_agreement", "top5_agreement", "top1", "top5")))
            (one,) = variant["accuracy"]["outputs"]
            variant["accuracy"]["outputs"] = [{**one, "name": "boxes"}, {**one, "name": "scores", "sqnr_db": None}]
    parsed = page(run)
    assert "Top-1 agree- ment, %" not in parsed.text
    assert "names the original's best class" not in parsed.text
    assert "boxes 100 × 4, scores 100" in parsed.text
    assert "fp32-cpu: scores 2.1·10⁻¹² exact" in parsed.text


@pytest.mark.parametrize("count", [1, 2])
def test_few_layers_or_none_with_a_figure(count: int) -> None:
    run = sample_run()
    run["variants"][3]["layers"] = run["variants"][3]["layers"][:count]
    parsed = page(run)
    assert any(chart.startswith("SQNR") for chart in charts_in(parsed)) == (count == 2)
    assert ("In int8, the only layer with an error is conv_1" in parsed.text) == (count == 2)


# ---------------------------------------------------------------------------------------------- layers and drawing


def cells(run: dict[str, Any], name: str) -> dict[str, layers.Cell]:
    table = layers.layer_table(as_run(run))
    assert table
    row = next(row for row in table.rows if row.name == name)
    return dict(zip(table.precisions, row.cells))


def test_a_layer_has_its_figures_at_every_precision() -> None:
    """conv_5 is int8-winograd in the plan, so its figures in the mixed model are those of that choice."""
    run = sample_run()
    run["variants"][4]["layers"] = [{"name": "conv_5", "type": "Convolution", "sqnr_db": 41.0}]
    found = cells(run, "conv_5")
    assert list(found) == ["mixed", "fp32", "bf16", "int8", "int8-winograd"]
    assert found["fp32"] == layers.Cell(0.42, math.inf, None)
    assert found["int8"].alone == pytest.approx(36.99, abs=0.01)
    assert (found["int8"].ms, found["int8"].sqnr_db) == (0.21, 43.5)
    assert found["mixed"] == layers.Cell(0.17, found["int8-winograd"].alone, 41.0)
    assert found["bf16"].alone == pytest.approx(50)
    assert cells(run, "conv_0")["int8"].sqnr_db == math.inf


def test_the_table_of_layers_begins_with_the_recommended_precision(sample: Page) -> None:
    (table,) = sample.having("table", **{"class": "layers sortable"})
    assert table["data-shown"] == "3"
    shown = [a for a in sample.having("option") if "selected" in a]
    assert [a["value"] for a in shown] == ["3"]
    assert len([a for a in sample.having("tr") if "data-layer" in a]) == 25


def test_a_network_without_a_plan_has_its_layers() -> None:
    run = {**sample_run(), "plan": None}
    table = layers.layer_table(as_run(run))
    assert table
    assert [(row.name, row.choice) for row in table.rows][:2] == [("in0", ""), ("conv_0", "")]
    assert table.precisions == ["int8"]


def test_the_drawing_has_every_layer_and_every_edge() -> None:
    parsed = page(sample_run())
    boxes = [a for a in parsed.having("g") if "data-layer" in a]
    assert [a["data-layer"] for a in boxes] == [str(i) for i in range(25)]
    assert [a.get("data-choice") for a in boxes][:5] == [None, "fp32", "fp32", "fp32", "int8"]
    edges = {(a["data-from"], a["data-to"]) for a in parsed.having("path")}
    assert edges == {(str(i), str(i + 1)) for i in range(24)} | {(str(i), str(i + 3)) for i in range(0, 24, 3)}


def test_the_details_of_a_layer_are_json_without_markup() -> None:
    run = sample_run()
    run["network"][3]["name"] = NASTY
    (source,) = re.findall(r'<script type="application/json" id="layer-data">(.*?)</script>', html.render(as_run(run)))
    rows = json.loads(source)
    assert rows[3]["name"] == NASTY
    assert rows[1]["int8"] == {
        "low": -0.5, "high": 6.25, "zero": 2.875, "steps": [0.001, 0.01],
        "inputs": [0.0, 8.0, [9, 4, 1]], "weights": [-1.0, 1.0, [1, 9, 1]],
    }  # fmt: skip


def test_a_chain_is_drawn_straight_and_branches_beside_each_other() -> None:
    chain = drawing.draw([[], [0], [1]])
    assert chain.places == [(74, 13), (74, 63), (74, 113)]
    assert chain.edges == [(0, 1, [(74, 26), (74, 50)]), (1, 2, [(74, 76), (74, 100)])]
    assert drawing.path(chain.edges[0][2]) == "M74 26V50"
    branched = drawing.draw([[], [0], [0], [1, 2]])
    (_, _), (left, y), (right, same), (middle, _) = branched.places
    assert y == same
    assert right - left == drawing.WIDTH + drawing.APART
    assert left < middle < right


@given(st.lists(st.lists(st.integers(0, 30), max_size=3), min_size=1, max_size=30))
def test_layers_of_a_drawing_do_not_overlap(numbers: list[list[int]]) -> None:
    reads = [sorted({n % i for n in each}) if i else [] for i, each in enumerate(numbers)]
    found = drawing.draw(reads)
    for reader, sources in enumerate(reads):
        assert all(found.places[source][1] < found.places[reader][1] for source in sources)
    assert len(found.edges) == sum(map(len, reads))
    for a, b in itertools.combinations(found.places, 2):
        assert a[1] != b[1] or abs(a[0] - b[0]) >= drawing.WIDTH - 1e-6
    half = drawing.WIDTH / 2 - 1e-6
    assert all(half <= x <= found.width - half for x, _ in found.places)


def test_a_constant_is_drawn_just_above_its_reader() -> None:
    """A MemoryData layer reads nothing and may be read late."""
    heights = [y for _, y in drawing.draw([[], [0], [1], [], [2, 3]]).places]
    assert heights[3] == heights[2]


def large_run(count: int = 500, variants: int = 40) -> dict[str, Any]:
    """A run with many layers, all with all figures, and many variants."""
    run = sample_run()
    template = run["network"][1:]
    bins = [max(1, 90000 // (i + 1) ** 2) for i in range(32)]
    run["network"] = [run["network"][0]]
    for i in range(count):
        layer = copy.deepcopy(template[i % 24])
        reads = [run["network"][-1]["name"], *([run["network"][-3]["name"]] if i % 3 == 2 else [])]
        layer.update(name=f"/stages.{i // 20}/blocks.{i}/conv/Conv", reads=reads)
        layer["int8"]["inputs"]["counts"] = layer["int8"]["weights"]["counts"] = bins
        run["network"].append(layer)
    names = [layer["name"] for layer in run["network"][1:]]
    run["plan"]["layers"] = [{**run["plan"]["layers"][i % 24], "name": name} for i, name in enumerate(names)]
    for variant in run["variants"][1:5]:
        variant["layers"] = [{"name": n, "type": "Convolution", "sqnr_db": 60 - i / 10} for i, n in enumerate(names)]
    for i in range(variants - len(run["variants"])):
        copied = {**copy.deepcopy(run["variants"][i % 5]), "name": f"{run['variants'][i % 5]['name']}@board{i}"}
        run["variants"].append({**copied, "layers": []})
    return run


def test_a_large_report_stays_small() -> None:
    text = html.render(as_run(large_run()))
    assert len(text.encode()) < 1_500_000
    assert len(html.render(as_run(sample_run())).encode()) < 150_000


# -------------------------------------------------------------------------------------------------------- terminal


def test_a_fallback_of_any_kind_is_explained_below_the_plot() -> None:
    """Another engine may have computed in fp32 although fp16 was requested. That has nothing to do with Vulkan."""
    run = sample_run()
    run["variants"][1].update(status="fallback", reason="this CPU has no fp16 arithmetic")
    assert "Hollow points did not run as requested" in page(run).text


def shown(table: Any, width: int = 100) -> str:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return capture.get()


def table(run: dict[str, Any], width: int = 100) -> Any:
    read = as_run(run)
    return console_table(read.variants, read.recommended, width)


def test_a_missing_backend_has_no_rows() -> None:
    run = sample_run()
    for variant in run["variants"]:
        if variant["backend"] == "vulkan":
            variant.update(status="skipped", reason="there is no Vulkan device")
    text = shown(table(run))
    assert "vulkan" not in text
    assert text.count("-cpu") == 5
    run["variants"][-1].update(reason="a plan needs timings")
    assert shown(table(run)).count("-vulkan") == 5, "several reasons need several rows"
    run["variants"][-1].update(status="crashed", reason="there is no Vulkan device")
    assert shown(table(run)).count("-vulkan") == 5, "one that crashed was there"


def test_the_interval_of_a_latency_is_in_the_table() -> None:
    text = shown(table(sample_run(), 200), 200)
    assert "25–75 %" in text
    latency = sample_run()["variants"][0]["latency_ms"]
    assert f"{formatting.plain(latency['p25'])}–{formatting.plain(latency['p75'])}" in text


def test_the_layers_of_a_plan_can_be_sorted() -> None:
    layers_of_plan = as_run(sample_run()).plan.layers  # type: ignore[union-attr]

    def column(number: int, order: str) -> list[str]:
        lines = shown(plan_table(layers_of_plan, order), 200).splitlines()
        return [line.split()[number] for line in lines[1 : len(layers_of_plan) + 1]]

    assert column(0, "network") == [layer.name for layer in layers_of_plan]
    assert column(0, "name") == sorted(column(0, "network"))
    for number, order in ((3, "ms"), (4, "error")):
        figures = [float(text) for text in column(number, order)]
        assert figures == sorted(figures, reverse=True), "the largest first"
        assert len(set(figures)) > 1
    first = column(0, "error")[0]
    (row,) = (line for line in shown(plan_table(layers_of_plan), 200).splitlines() if line.split()[0] == first)
    assert row.split()[1:5] == ["Convolution", "int8-winograd", "0.170", "0.0009"]


def test_a_narrow_terminal_drops_columns_of_a_plan_instead_of_breaking_headings_and_figures() -> None:
    layers_of_plan = as_run(sample_run()).plan.layers  # type: ignore[union-attr]
    heads = {}
    for width in (100, 60, 40):
        text = shown(plan_table(layers_of_plan, width=width), width)
        heads[width] = text.splitlines()[0].split()
        assert {"0.170", "0.0009"} <= set(text.split()), "figures are whole"
    assert heads[100] == ["layer", "type", "choice", "ms", "error", "why"]
    assert heads[60] == ["layer", "choice", "ms", "error", "why"]
    assert heads[40] == ["layer", "choice", "ms", "error"]
    said = " ".join(shown(plan_table(layers_of_plan, width=40), 40).split())
    assert "not shown, because the terminal is narrow: type, why (--json has everything)" in said


def test_a_narrow_terminal_drops_columns_of_a_profile() -> None:
    layer = {"name": "/blocks.1/expand/Conv", "type": "ConvolutionDepthWise", "runs_on": "CPU", "precision": "fp32",
             "bits": 32, "ms": 0.508, "share": 0.051}  # fmt: skip
    lines = shown(profile_table([layer], 40), 40).splitlines()
    assert lines[0].split() == ["layer", "on", "precision", "ms", "%"]
    assert lines[1].split()[1:] == ["CPU", "fp32", "0.508", "5.1"]


def test_the_table_fits_a_terminal() -> None:
    text = shown(table(sample_run(), 120), 120)
    assert max(map(len, text.splitlines())) <= 120
    assert "…" not in text
    lines = text.splitlines()
    assert len(lines) == 1 + 10 + 1
    cells = [" ".join(line.split()) for line in lines]
    assert cells[0] == "variant status ms p90 speed load ms MB RAM MB MSE dB cosine top1_agreement % top1 %"
    assert cells[4] == "int8-cpu * ok 5.23 5.75 1.94× 31.2 4.91 41.5 0.0187 23.1 0.99951 96.7 83.3"
    assert cells[5] == "mixed-cpu ok 5.61 6.17 1.81× 31.2 7.33 41.5 0.00402 29.8 0.99992 96.7 83.3"
    assert cells[6] == "fp32-vulkan fallback 187 206 – 31.2 18.6 41.5 2.1e-12 118.3 1.00000 96.7 83.3"
    assert cells[8] == "bf16-vulkan crashed – – – – 18.6 – – – – – –"
    assert cells[11] == "* recommended"


def test_the_error_of_the_conversion_is_reported() -> None:
    own = as_run(sample_run()).conversion
    check = dataclasses.replace(own, own=None)
    assert own.own is not None
    assert own.own.said == [
        "the original is quantised (41.0 dB against itself in floating point); the int8 model keeps its scales in "
        "12 layers",
        "not kept in one layer: they are dynamic (fc)",
    ]
    assert not any("is quantised" in line for line in converted(own, "the original"))  # a run warns of it
    too = ShapeCheck(shapes=[(3, 32, 32)], sqnr_db=52.0, cosine=0.99, max_error=1e-6, original_sqnr_db=51.0)
    assert converted(dataclasses.replace(check, shapes=[too]), "the original")[1] == (
        "  for inputs of 3x32x32: 52.0 dB, against the original, which itself is only exact to 51.0 dB on these samples"
    )
    assert converted(check, "the original ONNX file") == [
        "conversion by route pnnx: 118.9 dB, cosine 1.000000, against the original ONNX file",
        "  route onnx failed: Det 'd' is not in ncnnkit's table of operators (0.400 s)",
    ]
    unknown = dataclasses.replace(check, verified=False, sqnr_db=None, cosine=None, max_error=None)
    assert converted(unknown, "")[0].startswith("conversion by route pnnx: not verified, because there is no original")


def test_every_route_has_a_row() -> None:
    run = sample_run()
    said = page(run).text
    assert "failed: Det 'd' is not in ncnnkit's table of operators" in said
    run["conversion"].update(verified=False)
    assert "the conversion is not verified" in page(run).text


def shipped(run: dict[str, Any]) -> Shipping:
    found = shipping(as_run(run), "my run")
    assert found
    return found


def test_the_files_to_ship_have_loading_instructions() -> None:
    """bf16 uses the files of fp32, and ncnn enables fp16 by default, so without its options it is another model."""
    run = sample_run()
    assert "opt.use_fp16_arithmetic = true, opt.use_bf16_packed = false" in shipped(run).loading
    run["recommended"] = "bf16-cpu"
    ship = shipped(run)
    assert ship.files == ("tiny-bf16.param", "tiny-bf16.bin")
    assert ship.options == {
        "num_threads": 2, "use_vulkan_compute": False, "use_fp16_packed": False, "use_fp16_storage": False,
        "use_fp16_arithmetic": False, "use_bf16_packed": True, "use_bf16_storage": True,
    }  # fmt: skip
    for line in ("num_threads = 2", "use_fp16_storage = false", "use_bf16_storage = true"):
        assert f"net.opt.{line};" in ship.cpp
        assert f"net.opt.{line.replace('true', 'True').replace('false', 'False')}\n" in ship.python
    run["recommended"] = "fp16-vulkan"
    assert shipped(run).options["use_vulkan_compute"] is True
    run["recommended"] = None
    assert shipping(as_run(run), ".") is None
    assert "Ship it" not in page(run).text


def test_commands_name_the_variant_and_the_device() -> None:
    run = sample_run()
    assert shipped(run).commands == ["ncnnkit app 'my run' --variant int8-cpu -o app", "ncnnkit verify app"]
    for variant in run["variants"]:
        variant["device"] = "rock5b"
    ship = shipped(run)
    assert (ship.commands[1], ship.ncnn) == ("ncnnkit verify app --on rock5b", "1.0.20260101")


def test_the_report_ships_what_the_terminal_does() -> None:
    run = sample_run()
    run["network"][0]["outputs"] = ['in "0"']
    ship, parsed = shipping(as_run(run), "."), page(run)
    assert ship
    assert r'extractor.input("in \0420\042", input);' in ship.cpp, "an octal escape has three digits at most"
    for text in (ship.cpp, ship.python, *ship.commands, "ab" * 32, "cd" * 32):
        assert " ".join(text.split()) in parsed.text


def test_the_python_lines_run() -> None:
    compile(shipped(sample_run()).python, "lines", "exec")


@pytest.mark.parametrize("width", [90, 80, 60])
def test_a_narrow_terminal_drops_columns_but_never_names(width: int) -> None:
    lines = shown(table(sample_run(), width), width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[4].startswith("int8-cpu * ")
    assert all(word in lines[0] for word in ("ms", "MB", "dB", "cosine"))
    assert "…" not in "".join(lines)


def test_rows_without_accuracy_have_no_columns_for_it() -> None:
    rows = [{**variant, "accuracy": None} for variant in sample_run()["variants"]]
    text = shown(table({**sample_run(), "variants": rows, "recommended": None}))
    assert "cosine" not in text
    assert "recommended" not in text
    assert "5.23" in text


def test_a_name_is_not_markup() -> None:
    run = sample_run()
    run["variants"][0]["name"] = "[red]fp32[/]"
    assert "[red]fp32[/]" in shown(table(run))


def test_the_headline_in_one_line() -> None:
    run = sample_run()
    assert headline(as_run(run)).startswith("Recommended: int8-cpu. It is the fastest of the 5 that reach cosine 0.999")
    run["why"] = "no variant reaches cosine 0.999; int8-cpu is the most exact"
    assert headline(as_run(run)) == f"Recommended: int8-cpu: {run['why']}."
    failed = headline(as_run(failed_run()))
    assert failed == "No recommendation: no variant ran to its end; the reasons stand beside each."


def test_two_models_compared() -> None:
    variant = as_run(sample_run()).variants[3]
    assert variant.accuracy is not None
    text = shown(comparison_table(Comparison(variant.accuracy, variant.layers)))
    assert "0.0187" in text
    assert "over 30 images; top-1 agreement 96.7 %" in text
    assert re.search(r"conv_0\s+Convolution\s+–", text)
    assert "conv_23" in text
    assert "conv_0" not in shown(comparison_table(Comparison(variant.accuracy, [])))


# ---------------------------------------------------------------------------------------------- numbers and labels


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (None, "–"),
        (0, "0"),
        (0.01234, "0.0123"),
        (5.234, "5.23"),
        (52.34, "52.3"),
        (1234.5, "1234"),
        (9.999, "10.0"),
        (999.9, "1000"),
    ],
)
def test_plain_numbers(value: float | None, says: str) -> None:
    assert formatting.plain(value) == says


def test_a_cosine_is_truncated() -> None:
    assert formatting.cosine(0.99999996) == "0.999999"
    assert formatting.cosine(1 - 1e-14) == "1.000000"
    assert formatting.cosine(0.5, 2) == "0.50"
    assert formatting.cosine(-0.25, 2) == "-0.25"


def test_powers_of_ten_are_typeset() -> None:
    assert formatting.typeset(formatting.exact(1.87e-5)) == "1.87·10⁻⁵"
    assert formatting.typeset(formatting.exact(0.0187)) == "0.0187"


def test_labels_of_one_position_do_not_overlap() -> None:
    places, _ = place_labels([(0.5, 0.5)] * 4, ["fp32-cpu"] * 4, (0, 1), (0, 1), line=0.9)
    assert len(set(places)) == 4


def test_a_label_at_the_edge_stays_inside() -> None:
    (place,), _ = place_labels([(0.99, 0.5)], ["int8-vulkan"], (0, 1), (0, 1), line=0.9)
    assert "left" in place


def test_the_limit_is_named_where_no_point_is() -> None:
    def caption(points: list[tuple[float, float]]) -> tuple[str, str]:
        return place_labels(points, ["int8-cpu"] * len(points), (0, 1), (0, 1), line=0.5)[1]

    assert caption([(0.1, 0.52)]) == ("right", "bottom")
    assert caption([(0.9, 0.52)]) == ("left", "bottom")
    assert caption([(0.1, 0.52), (0.5, 0.52), (0.9, 0.54)]) == ("right", "top")


@pytest.mark.parametrize(
    ("counts", "says"),
    [
        ((1, 1, 1), "the network has the only box of the original; mean IoU 1.0000, scores within 1.0e-06"),
        ((21, 21, 21), "the network has all 21 boxes of the original; mean IoU 1.0000, scores within 1.0e-06"),
        ((19, 21, 20), "the network has 19 of the 21 boxes of the original, and 1 other; mean IoU 1.0000, scores"),
        ((0, 2, 2), "the network has none of the 2 boxes of the original, and 2 others"),
        ((0, 0, 3), "the network has 3 boxes, the original none"),
        ((0, 0, 0), "neither the network nor the original has any boxes"),
    ],
)
def test_text_about_decoded_predictions(counts: tuple[int, int, int], says: str) -> None:
    matched, original, network = counts
    exact = (1.0, 1e-6) if matched else (None, None)
    check = DecodedCheck(
        decoder="boxes", original=original, network=network, matched=matched, iou=exact[0], score_error=exact[1]
    )
    assert decoded_line(check).startswith(f"decoded: {says}")


def test_the_variant_whose_worst_images_are_shown_is_picked(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1)).save(tmp_path / "p.jpg")
    run = as_run(sample_run())
    pictures = [
        Picture(variant=v, image="a.jpg", file="p.jpg", severity=0.5, original_text="cat <", text=text)
        for v, text in (("int8-cpu", "cat <"), ("fp32-cpu", "car"))
    ]
    text = dataclasses.replace(run, pictures=pictures, task=dataclasses.replace(run.task, name="text"))
    page = html.render(text, tmp_path)
    radios = re.findall(r'<input type="radio" name="picked" id="pick-(\d)"( checked)?>', page)
    assert radios == [("1", " checked"), ("2", "")]
    assert re.findall(r'<label for="pick-\d">([\w-]+)', page) == ["int8-cpu", "fp32-cpu"]
    assert re.search(r"#pick-1:checked ~ #picked-1,\s*#pick-2:checked ~ #picked-2\s*\{ display: grid; \}", page)
    assert page.count(f"data:image/jpeg;base64,{b64encode((tmp_path / 'p.jpg').read_bytes()).decode()}") == 2
    assert "original: <q>cat &lt;</q><br>int8-cpu: <q>cat &lt;</q>" in page
    assert '<q class="differs">car</q>' in page
    assert 'id="pictures"' not in html.render(dataclasses.replace(run, pictures=[]), tmp_path)


def test_the_pictures_of_the_documentation_are_there_and_small() -> None:
    docs = Path(__file__).parent.parent / "docs"
    named = set(re.findall(r"\]\((images/[\w.-]+)\)", (docs / "reports.md").read_text()))
    assert named == {f"images/{path.name}" for path in (docs / "images").glob("report-*")}
    assert len(named) == 10
    assert all((docs / name).stat().st_size < 100_000 for name in named)
