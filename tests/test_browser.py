"""The report in Chromium: every kind of run opens without an error on a phone and a wide screen, and works."""

from __future__ import annotations

import copy
import dataclasses
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, Page
from PIL import Image
from test_report import NASTY, failed_run, large_run, nasty_run
from test_schema import as_run, sample_device, sample_run

from ncnnkit.record.run import Picture, Run
from ncnnkit.report import NamedRun, html, write_comparison

pytestmark = pytest.mark.browser

WIDTHS = (400, 800, 1400)


def without_labels() -> dict[str, Any]:
    run = sample_run()
    run["task"].update(labels="", original={})
    run["model"].update(labels=0, classes=0)
    run["top5"] = []
    for variant in run["variants"]:
        if variant["accuracy"]:
            del variant["accuracy"]["task"][1:]
    return run


def one_variant() -> dict[str, Any]:
    run = sample_run()
    return {**run, "variants": run["variants"][:1], "recommended": "fp32-cpu", "quantisation": None, "plan": None}


def emulated() -> dict[str, Any]:
    run = sample_run()
    run["devices"][0]["machine"]["board"]["emulated"] = True
    run.update(plan=None, recommended=None, why="the timings of an emulated device are not real")
    return run


def several_devices() -> dict[str, Any]:
    run = sample_run()
    run["devices"] = [{**sample_device(), "name": name} for name in ("rock5b", "pi5", "local")]
    run["variants"] = [
        {**copy.deepcopy(v), "name": f"{v['name']}@{d['name']}", "device": d["name"]}
        for d in run["devices"]
        for v in run["variants"]
    ]
    run["recommended"] = "int8-cpu@rock5b"
    return run


def of_task(name: str) -> Callable[[], dict[str, Any]]:
    """A run of a network for a task, with the pictures of its report."""

    def made() -> dict[str, Any]:
        run = sample_run()
        run["task"].update(name=name)
        run["top5"] = run["top5"] if name == "classification" else []
        return run

    return made


TASKS = ("classification", "detection", "segmentation", "text", "landmarks", "image", "embedding", "tensor")

STATES: dict[str, Callable[[], dict[str, Any]]] = {
    "a usual run, with a crash and software Vulkan": sample_run,
    "every variant crashed": failed_run,
    "no labels": without_labels,
    "one variant": one_variant,
    "emulated": emulated,
    "several devices": several_devices,
    "names with HTML in them": nasty_run,
    "500 layers and 40 variants": large_run,
    "no record of the network": lambda: {**sample_run(), "network": []},
    **{f"for {name}": of_task(name) for name in TASKS},
}


def drawn(run: Run, folder: Path) -> Run:
    """The run, with pictures if its task has any."""
    if run.task.name not in ("detection", "segmentation", "text", "landmarks", "image"):
        return run
    Image.new("RGB", (640, 320), "teal").save(folder / "p.jpg")
    rows = [
        Picture(variant=name, image="street.jpg", file="p.jpg", severity=0.5, original_text="cat", text="car")
        for name in ("int8-cpu", "fp16-cpu")
    ]
    return dataclasses.replace(run, pictures=rows)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    with browser.page() as opened:
        yield opened


@pytest.fixture
def report(page: Page, tmp_path: Path) -> Callable[..., Page]:
    """Opens the report of a run."""

    def opened(run: dict[str, Any], width: int = 1200, **settings: Any) -> Page:
        made = drawn(as_run(run), tmp_path)
        (tmp_path / "report.html").write_text(html.render(made, tmp_path), encoding="utf-8")
        page.errors.clear()
        page.open(tmp_path / "report.html", width, **settings)
        return page

    return opened


@pytest.mark.parametrize("state", STATES)
def test_every_kind_of_run_opens_without_an_error(report: Callable[..., Page], state: str) -> None:
    opened = report(STATES[state](), WIDTHS[0])
    assert "ncnnkit report" in opened.run("document.body.innerText")
    for width in WIDTHS:
        opened.resize(width, 900)
        # Only tables and boxes with their own scroll bar are wider than the window.
        assert opened.run("document.documentElement.scrollWidth") <= width, width
    assert opened.errors == []


def test_a_comparison_of_runs_opens_without_an_error(page: Page, tmp_path: Path) -> None:
    runs = [
        NamedRun(name, as_run(run())) for name, run in (("a", sample_run), ("b", several_devices), ("c", failed_run))
    ]
    write_comparison(runs, tmp_path / "comparison.html")
    page.errors.clear()
    page.open(tmp_path / "comparison.html", WIDTHS[0])
    assert "a, b, c" in page.run("document.querySelector('h1').innerText")
    for width in WIDTHS:
        page.resize(width, 900)
        assert page.run("document.documentElement.scrollWidth") <= width, width
    page.resize(1200, 900)
    box = "document.querySelector('#runs .scroll')"
    assert page.run(f"{box}.scrollWidth <= {box}.clientWidth"), "the reasons are read without scrolling"
    fill = "[...document.querySelectorAll('svg.chart circle')].map(c => getComputedStyle(c).fill)"
    assert len(set(page.run(fill))) == 2, "a and b; nothing ran in c"
    assert page.errors == []


MISALIGNED = """[...document.querySelectorAll('table')].flatMap(table => {
  const heads = [...table.querySelectorAll('thead tr:last-child th')];
  const cells = [...(table.querySelector('tbody tr')?.cells ?? [])];
  if (heads.length != cells.length || heads.some(head => head.colSpan > 1)) return [];
  const side = element => getComputedStyle(element).textAlign;
  return heads.filter((head, i) => side(head) != side(cells[i])).map(head => head.textContent);
})"""


def test_a_heading_is_aligned_as_its_column(report: Callable[..., Page]) -> None:
    assert report(sample_run()).run(MISALIGNED) == []


def test_a_large_report_opens_at_once(report: Callable[..., Page]) -> None:
    """It takes 0.6 s on a quiet machine. The bound allows for a busy machine."""
    opened = report(large_run())
    assert opened.run("performance.getEntriesByType('navigation')[0].domContentLoadedEventEnd") < 10_000
    assert opened.run("document.querySelectorAll('*').length") < 40_000


def test_dark_mode_changes_the_colours(report: Callable[..., Page]) -> None:
    colour = "getComputedStyle(document.querySelector('svg.chart .label')).fill"
    light = report(sample_run()).run(colour)
    dark = report(sample_run(), dark=True).run(colour)
    assert (light, dark) == ("rgb(27, 31, 36)", "rgb(230, 232, 234)")


LAYERS = "[...document.querySelectorAll('table.layers tbody tr')].map(row => row.cells[0].textContent.trim())"


def test_a_click_on_a_heading_sorts(report: Callable[..., Page]) -> None:
    opened = report(sample_run())
    heads = opened.run("[...document.querySelectorAll('table.layers thead th')].map(h => h.textContent.trim())")
    column = heads.index("Accu-mulatedint8")
    click = f"document.querySelectorAll('table.layers thead th')[{column}].querySelector('button').click()"
    before = opened.run(LAYERS)
    opened.run(click)
    worst = opened.run(LAYERS)
    assert worst[:2] == ["conv_22", "conv_19"]  # 24.0 and 25.5 dB
    assert worst[-1] == "in0", "what has no figure comes last"
    assert worst[-2] == "conv_0", "exact is better than any number"
    opened.run(click)
    best = opened.run(LAYERS)
    assert [best[0], *best[-2:]] == ["conv_0", "conv_22", "in0"]
    assert sorted(before) == sorted(best)
    sort = "document.querySelectorAll('table.layers thead th')[{}].getAttribute('aria-sort')"
    assert opened.run(sort.format(column)) == "descending"
    assert opened.errors == []


def test_the_figures_of_another_precision_are_shown(report: Callable[..., Page]) -> None:
    opened = report(sample_run())
    shown = (
        "[...document.querySelectorAll('table.layers thead th')].filter(h => h.offsetWidth)"
        ".map(h => h.querySelector('small')?.textContent ?? '')"
    )
    assert set(opened.run(shown)) == {"", "int8"}
    pick = "(s => { s.value = '%s'; s.dispatchEvent(new Event('change')) })(document.querySelector('#layer-precision'))"
    opened.run(pick % 2)
    assert set(opened.run(shown)) == {"", "bf16"}
    opened.run(pick % "all")
    assert set(opened.run(shown)) == {"", "mixed", "fp32", "bf16", "int8", "int8-winograd"}


def test_a_click_on_a_layer_shows_its_int8_figures(report: Callable[..., Page]) -> None:
    opened = report(sample_run())
    box = "document.querySelector('svg.network [data-layer=\"4\"]')"
    opened.run(f"{box}.dispatchEvent(new MouseEvent('click', {{bubbles: true}}))")
    said = opened.run("document.querySelector('#layer').innerText")
    assert said.startswith("conv_3\n")
    assert "16 × 112 × 112, 2,320 parameters" in said
    assert "reads conv_2" in said
    assert "int8 holds inputs from -0.5 to 6.25; code 0 is 2.88." in said
    assert "int8: int8 would save 0.210 ms" in said, "why it has its precision"
    bars = "[...document.querySelectorAll('#layer svg')].map(svg => svg.querySelectorAll('rect').length)"
    assert opened.run(bars) == [3, 3]
    marks = "[...document.querySelectorAll('#layer .mark')].map(l => Math.round(l.getAttribute('x1')))"
    assert opened.run(marks) == [234, 108]  # 6.25 and 2.875 of 8, on 300
    assert opened.run("document.querySelector('table.layers tr.chosen').cells[0].textContent") == "conv_3"
    assert opened.run("document.querySelectorAll('svg.network path.chosen').length") == 2
    assert opened.errors == []


def test_a_click_on_a_row_moves_the_drawing_there(report: Callable[..., Page]) -> None:
    opened = report(sample_run())
    opened.run("document.querySelector('table.layers tr[data-layer=\"23\"]').click()")
    box = opened.run(
        "(() => { const a = document.querySelector('svg.network [data-layer].chosen').getBoundingClientRect();"
        "const b = document.querySelector('svg.network').getBoundingClientRect();"
        "return [(a.left + a.right - b.left - b.right) / 2, (a.top + a.bottom - b.top - b.bottom) / 2] })()"
    )
    assert max(map(abs, box)) < 2, "it is in the middle"


def test_the_drawing_zooms_and_moves(report: Callable[..., Page]) -> None:
    opened = report(sample_run())
    view = "document.querySelector('svg.network').getAttribute('viewBox').split(' ').map(Number)"
    width, height = opened.run(view)[2:]
    opened.run("document.querySelector('[data-zoom=\"0.7\"]').click()")
    assert opened.run(view)[2:] == pytest.approx([0.7 * width, 0.7 * height])
    opened.run("document.querySelector('[data-zoom=\"all\"]').click()")
    assert opened.run(view)[3] > 25 * 40
    opened.run("document.querySelector('svg.network').scrollIntoView()")
    left, top = opened.run("(b => [b.left, b.top])(document.querySelector('svg.network').getBoundingClientRect())")
    before = opened.run(view)
    for kind, dx in (("mousePressed", 0), ("mouseMoved", 60), ("mouseReleased", 60)):
        opened.ask(
            "Input.dispatchMouseEvent", type=kind, x=left + 20 + dx, y=top + 20, button="left", clickCount=1, buttons=1
        )
    assert opened.run(view)[0] < before[0]
    assert "No layer is selected" in opened.run("document.querySelector('#layer').innerText"), "a drag is no click"


def test_a_layer_named_like_a_script_is_text(report: Callable[..., Page]) -> None:
    run = sample_run()
    run["network"][4].update(name=NASTY, type=NASTY)
    opened = report(run)
    opened.run("document.querySelector('table.layers tr[data-layer=\"4\"]').click()")
    assert opened.run("document.querySelector('#layer h3').textContent") == NASTY
    assert opened.run("document.querySelectorAll('img').length") == 0
    assert opened.errors == []


def test_the_picker_shows_the_pictures_of_a_variant(report: Callable[..., Page]) -> None:
    opened = report(STATES["for detection"]())
    shown = "[...document.querySelectorAll('.picker .pictures')].map(d => getComputedStyle(d).display)"
    assert opened.run(shown) == ["grid", "none"]
    opened.run("document.querySelector('label[for=pick-2]').click()")
    assert opened.run(shown) == ["none", "grid"]
    first = "[...document.querySelectorAll('main section')].map(s => s.id)"
    assert opened.run(first)[:5] == ["recommended", "engines", "warnings", "pictures", "ship"]


def test_a_print_has_everything_open(report: Callable[..., Page]) -> None:
    opened = report(sample_run())
    closed = "document.querySelectorAll('details:not([open])').length"
    assert opened.run(closed) > 2
    opened.run("dispatchEvent(new Event('beforeprint'))")
    assert opened.run(closed) == 0
    opened.run("dispatchEvent(new Event('afterprint'))")
    assert opened.run(closed) > 2
    opened.ask("Emulation.setEmulatedMedia", media="print")
    rows = "(b => [b.scrollHeight, b.clientHeight])(document.querySelector('.rows'))"
    whole, seen = opened.run(rows)
    opened.ask("Emulation.setEmulatedMedia", media="")
    assert whole == seen, "no row of the table is behind a bar"
    assert opened.pdf().startswith(b"%PDF")


def test_a_picture_of_the_page_can_be_taken(report: Callable[..., Page]) -> None:
    with Image.open(io.BytesIO(report(sample_run(), 400).picture(whole=True))) as picture:
        assert picture.width == 400
        assert picture.height > 5000
