"""Comparisons of runs: conditions, tables, Markdown, JUnit, and the page of several runs."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from test_schema import as_run, sample_run
from typer.testing import CliRunner

from ncnnkit.cli import app
from ncnnkit.errors import RecipeError
from ncnnkit.record.diff import Change, Condition, compare_runs, measures
from ncnnkit.record.variant import EMULATED
from ncnnkit.report import junit, markdown
from ncnnkit.report.several import NamedRun, render_comparison, tradeoff


def slower(**changes: Any) -> dict[str, Any]:
    """The sample run with an int8-cpu that is 1.2 times as slow and has 1 dB less."""
    run = copy.deepcopy(sample_run())
    int8 = run["variants"][3]
    for key in ("min", "p25", "median", "p75", "p90"):
        int8["latency_ms"][key] *= 1.2
    for errors in (int8["accuracy"], *int8["accuracy"]["outputs"]):
        errors["sqnr_db"] -= 1
    int8["accuracy"]["task"][0]["value"] -= 0.01
    return {**run, **changes}


def judged(text: str, after: dict[str, Any] | None = None, before: dict[str, Any] | None = None) -> tuple[bool, str]:
    found = compare_runs(as_run(before or sample_run()), as_run(after or slower()), [text])
    (verdict,) = found.verdicts
    assert found.failed == [verdict] * verdict.fails
    return verdict.fails, verdict.why


# ------------------------------------------------------------------------------------------------------ conditions


@pytest.mark.parametrize(
    ("text", "fails", "why"),
    [
        ("int8.latency > 1.1x", True, "6.28 ms, the limit is 5.75 ms, before: 5.23 ms"),
        ("int8.latency>1.3x", False, "6.28 ms, the limit is 6.80 ms, before: 5.23 ms"),
        ("int8-cpu.latency >= +1ms", True, "6.28 ms, the limit is 6.23 ms, before: 5.23 ms"),
        ("int8-cpu.latency > +1.1", False, "6.28 ms, the limit is 6.33 ms, before: 5.23 ms"),
        ("int8.latency > 6ms", True, "6.28 ms, the limit is 6.00 ms"),
        ("recommended.latency > 1.1x", True, "6.28 ms, the limit is 5.75 ms, before: 5.23 ms"),
        ("int8.sqnr < -0.5dB", True, "22.1 dB, the limit is 22.6 dB, before: 23.1 dB"),
        ("int8.sqnr < 20", False, "22.1 dB, the limit is 20.0 dB"),
        ("int8.top1_agreement < -0.5%", True, "95.7 %, the limit is 96.2 %, before: 96.7 %"),
        ("int8.top1_agreement < -2%", False, "95.7 %, the limit is 94.7 %, before: 96.7 %"),
        ("int8.size <= 1x", True, "4.91 MB, the limit is 4.91 MB, before: 4.91 MB"),
        ("int8.size < 1.0x", False, "4.91 MB, the limit is 4.91 MB, before: 4.91 MB"),
        ("mixed.cosine < 0.9999", False, "0.999920, the limit is 0.999900"),
        ("fp32.load > 2.5e1ms", True, "31.2 ms, the limit is 25.0 ms"),
        ("fp16-vulkan.latency > 1x", False, "204 ms, the limit is 204 ms, before: 204 ms"),
    ],
)
def test_conditions(text: str, fails: bool, why: str) -> None:
    assert judged(text) == (fails, why)


DOCS = Path(__file__).parent.parent / "docs"


@pytest.mark.parametrize("text", re.findall(r"--fail-if '([^']+)'", (DOCS / "reports.md").read_text()))
def test_the_conditions_of_the_documentation_can_be_read(text: str) -> None:
    assert judged(text)[0] in (True, False)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("int8.latency", "it has no > >= < or <="),
        ("int8.latency == 5", "== is not one of > >= < <="),
        ("latency > 5", "'latency' is not VARIANT.FIGURE"),
        ("int8.latency > fast", "'fast' is not a number with one of the units x, ms, MB, dB, %"),
        ("int8.latency > 5s", "'5s' is not a number"),
        ("int8.speed > 5", "unknown figure 'speed' (one of latency, p90, load, memory, size, cosine, sqnr, mse,"),
        ("int8.latency > 5dB", "latency is not in dB (it is in ms)"),
        ("int8.mse > 5ms", "mse is not in ms (it has no unit)"),
        ("int8.latency > 5%", "latency is not in % (it is in ms)"),
        ("int8.latency > +1.1x", "a factor has no sign (write 1.1x)"),
        ("int9.latency > 1.1x", "no variant is called 'int9' (one of recommended, fp32-cpu, fp16-cpu,"),
        ("", "it has no > >= < or <="),
    ],
)
def test_a_wrong_condition_is_an_error_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(RecipeError) as error:
        judged(text)
    assert error.value.line().startswith(f"--fail-if {text!r}: ")
    assert said in error.value.line()


def test_a_variant_that_no_longer_runs_fails_every_condition() -> None:
    after = slower()
    after["variants"][3].update(
        status="crashed", reason="signal 11", latency_ms=None, load_ms=None, peak_memory_mb=None, accuracy=None
    )
    assert judged("int8.latency > 9x", after) == (True, "latency is not known in the second run: signal 11")
    assert judged("int8.sqnr < 1", after) == (True, "SQNR is not known in the second run: signal 11")
    # A variant that never ran cannot be the reference, but can be judged by absolute bounds.
    assert judged("int8.latency > 9x", sample_run(), after) == (
        True, "latency is not known in the first run: signal 11",
    )  # fmt: skip
    assert judged("int8.latency > 9ms", sample_run(), after)[0] is False
    del after["variants"][3]
    after.update(recommended=None)
    assert judged("int8.latency > 9x", after) == (True, "the second run has no such variant")
    assert judged("recommended.latency > 9x", after) == (True, "the second run has no such variant")


def test_timings_of_an_emulated_device_are_not_compared() -> None:
    after = slower()
    after["variants"][3]["notes"] = [EMULATED]
    fails, why = judged("int8.latency > 9x", after)
    assert fails
    assert why.startswith("the device of the second run is emulated")
    assert judged("int8.size > 9x", after)[0] is False


def test_an_exact_model_is_better_than_any_number() -> None:
    before, after = sample_run(), sample_run()
    for errors in (after["variants"][0]["accuracy"], *after["variants"][0]["accuracy"]["outputs"]):
        errors.update(sqnr_db=None, mse=0.0)
    assert judged("fp32.sqnr < 100", after, before) == (False, "exact, the limit is 100.0 dB")
    assert judged("fp32.sqnr < 1x", before, after)[0] is True


def test_the_variants_of_a_board_have_dots() -> None:
    run = slower()
    run["variants"][3]["name"] = run["recommended"] = "int8-cpu@rock.local"
    assert Condition.parse("int8-cpu@rock.local.latency > 1.1x", measures([])).variant == "int8-cpu@rock.local"
    assert judged("int8-cpu@rock.local.latency > 6", run)[0] is True


# --------------------------------------------------------------------------------------------------------- changes


def test_changes_are_marked_as_better_or_worse() -> None:
    found = compare_runs(as_run(sample_run()), as_run(slower()))
    row = next(row for row in found.rows if row.name == "int8-cpu")
    latency, sqnr = row.changes["latency"], row.changes["sqnr"]
    assert (str(latency), latency.better) == ("5.23 ms → 6.28 ms (+20.0 %)", False)
    assert (str(sqnr), sqnr.better) == ("23.1 dB → 22.1 dB (-1.0 dB)", False)
    assert str(row.changes["top1_agreement"]) == "96.7 % → 95.7 % (-1.0 %)"
    assert row.changes["size"].better is None
    hidden = Change(row.changes["sqnr"].measure, 23.11, 23.12)
    assert (str(hidden), hidden.better) == ("23.1 dB → 23.1 dB (+0.0 dB)", None), "the shown digits are the same"
    back = compare_runs(as_run(slower()), as_run(sample_run()))
    assert next(row for row in back.rows if row.name == "int8-cpu").changes["latency"].better is True
    assert found.notes == []


def test_latencies_whose_middle_halves_overlap_are_a_tie() -> None:
    after = sample_run()
    for key in ("min", "p25", "median", "p75", "p90"):
        after["variants"][3]["latency_ms"][key] *= 1.03
    row = next(row for row in compare_runs(as_run(sample_run()), as_run(after)).rows if row.name == "int8-cpu")
    assert str(row.changes["latency"]) == "5.23 ms → 5.39 ms (+3.0 %, within noise)"
    assert row.changes["latency"].better is None


def test_a_variant_of_one_run_only_and_one_that_crashed() -> None:
    after = slower()
    after["variants"][1].update(name="fp16-cpu@new")
    after["variants"][2].update(status="crashed", latency_ms=None, accuracy=None)
    rows = {row.name: row for row in compare_runs(as_run(sample_run()), as_run(after)).rows}
    assert (rows["fp16-cpu@new"].status, rows["fp16-cpu"].status) == ("– → ok", "ok → –")
    assert rows["bf16-cpu"].status == "ok → crashed"
    assert str(rows["bf16-cpu"].changes["latency"]) == "12.8 ms → –"


def test_differences_that_hinder_a_comparison_are_reported() -> None:
    after = slower(recommended="mixed-cpu")
    after["model"]["name"] = "other"
    after["images"]["evaluation"] = 40
    machine = after["devices"][0]["machine"]
    machine.update(cpu="Another", ncnn="1.0.20270101")
    found = compare_runs(as_run(sample_run()), as_run(after)).notes
    assert found == [
        "the models are different: tiny and other",
        "rock5b has another processor: Rockchip RK3588, then Another; the times cannot be compared",
        "rock5b has another ncnn: 1.0.20260101, then 1.0.20270101",
        "the errors were measured on 30 images, then on 40 images",
        "the recommendation was int8-cpu and is mixed-cpu",
    ]


def test_markdown_is_a_table_that_no_name_breaks() -> None:
    after = slower()
    after["variants"][1]["name"] = "a|b"
    text = markdown(compare_runs(as_run(sample_run()), as_run(after), ["int8.latency > 1.1x", "int8.size > 2x"]))
    rows = [line for line in text.splitlines() if line.startswith("|")]
    head = rows[0].split(" | ")
    assert head[:4] == ["| Variant", "Status", "latency", "size"]
    assert "| `int8-cpu` | ok | 5.23 ms → 6.28 ms (+20.0 %) 🔴 |" in text
    assert "`a\\|b`" in text
    assert rows[-2:] == [
        "| `int8.latency > 1.1x` | **fail** | 6.28 ms, the limit is 5.75 ms, before: 5.23 ms |",
        "| `int8.size > 2x` | pass | 4.91 MB, the limit is 9.82 MB, before: 4.91 MB |",
    ]
    columns = {line.replace("\\|", "").count("|") for line in rows[: len(rows) - 4]}
    assert columns == {len(head) + 1}


def test_junit_has_a_case_for_each_condition() -> None:
    conditions = ["int8.latency > 1.1x", "int8.size > 2x"]
    suite = ElementTree.fromstring(junit(compare_runs(as_run(sample_run()), as_run(slower()), conditions)))
    assert (suite.tag, suite.get("tests"), suite.get("failures")) == ("testsuite", "2", "1")
    failed, passed = suite.iter("testcase")
    assert (failed.get("classname"), failed.get("name")) == ("ncnnkit.diff", "int8.latency > 1.1x")
    (failure,) = failed.iter("failure")
    assert str(failure.get("message")).startswith("6.28 ms, the limit is 5.75 ms")
    assert passed.find("failure") is None


# -------------------------------------------------------------------------------------------------- the commands


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two run folders: before and after."""
    monkeypatch.chdir(tmp_path)
    for name, run in (("before", sample_run()), ("after", slower())):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(json.dumps(run))
    return tmp_path


def typed(*words: str) -> Any:
    return CliRunner().invoke(app, [*words], env={"COLUMNS": "200"})


def test_diff_exits_with_5_if_a_condition_fails(folders: Path) -> None:
    good = typed("diff", "before", "after", "--fail-if", "int8.latency > 1.3x")
    assert good.exit_code == 0, good.output
    assert "pass  int8.latency > 1.3x: 6.28 ms" in good.output
    bad = typed(
        "diff", "before", "after", "--fail-if", "int8.latency > 1.1x", "--fail-if", "int8.sqnr < -0.5dB",
        "--fail-if", "int8.size > 9MB", "--markdown", "new/diff.md", "--junit", "diff.xml",
    )  # fmt: skip
    assert bad.exit_code == 5
    last = bad.output.strip().splitlines()[-1]
    assert last.startswith("error: after: int8.latency > 1.1x: 6.28 ms, the limit is 5.75 ms, before: 5.23 ms")
    assert last.endswith("; 1 more of 3 conditions")
    assert "**fail**" in (folders / "new" / "diff.md").read_text()
    assert ElementTree.parse(folders / "diff.xml").getroot().get("failures") == "2"


def test_diff_as_json(folders: Path) -> None:
    done = typed("diff", "before/run.json", "after", "--fail-if", "int8.latency > 1.1x", "--json")
    found = json.loads(done.stdout)
    assert found["verdicts"][0]["fails"] is True
    (row,) = [row for row in found["rows"] if row["name"] == "int8-cpu"]
    assert row["changes"]["latency"]["after"] == pytest.approx(6.276)
    assert math.isclose(row["changes"]["mse"]["before"], 0.0187)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["diff", "before", "absent"], "no run.json here"),
        (["diff", "before", "after", "--fail-if", "int8 > 2"], "'int8' is not VARIANT.FIGURE"),
        (["report", "before", "before"], "the same run is given twice"),
        (["report", "before", "-o", "x.html"], "report.html of a run is written into its folder"),
    ],
)
def test_a_wrong_command_exits_with_3(folders: Path, words: list[str], said: str) -> None:
    done = typed(*words)
    assert done.exit_code == 3
    assert said in " ".join(done.output.split())


def test_report_of_several_runs(folders: Path) -> None:
    done = typed("report", "before", "after", "-o", "two.html")
    assert done.exit_code == 0, done.output
    assert "after: Recommended: int8-cpu." in done.output
    page = (folders / "two.html").read_text()
    assert "<title>before, after – ncnnkit</title>" in page
    assert not (folders / "before" / "report.html").exists()
    (folders / "deep").mkdir()
    (folders / "before").rename(folders / "deep" / "after")
    assert typed("report", "deep/after", "after").exit_code == 0
    assert "deep/after" in (folders / "comparison.html").read_text()


def three() -> list[NamedRun]:
    return [NamedRun(name, as_run(run)) for name, run in (("A", sample_run()), ("B", slower()), ("<C>", slower()))]


def test_the_page_of_several_runs_compares_with_the_first() -> None:
    text = render_comparison(three())
    assert "&lt;C&gt;" in text
    assert "<C>" not in text
    row = text.partition('<th scope="row">int8-cpu</th>')[2].partition("</tr>")[0]
    assert row.count('<td class="worse">6.28 ms<small>+20.0 %</small></td>') == 2
    assert '<td class="">5.23 ms</td>' in row


def test_every_run_is_in_the_chart_and_the_recommended_are_named() -> None:
    drawn = tradeoff(three())
    assert drawn
    assert [p.kind for p in drawn.points] == ["run0"] * 5 + ["run1"] * 5 + ["run2"] * 5
    assert [p.label for p in drawn.points if p.label] == ["int8-cpu"] * 3


def test_runs_without_any_figure_have_a_page(folders: Path) -> None:
    broken: Callable[[], dict[str, Any]] = lambda: {  # noqa: E731
        **sample_run(), "recommended": None,
        "variants": [
            {**v, "latency_ms": None, "accuracy": None, "load_ms": None, "peak_memory_mb": None, "size_bytes": None}
            for v in sample_run()["variants"]
        ],
    }  # fmt: skip
    text = render_comparison([NamedRun("a", as_run(broken())), NamedRun("b", as_run(broken()))])
    assert "Latency against error" not in text
