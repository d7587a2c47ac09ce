"""The progress on the terminal, on a captured console and with a clock that tests control."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from networks import samples, small
from rich.console import Console

from ncnnkit import pipeline
from ncnnkit.formatting import duration
from ncnnkit.model import ncnnfile
from ncnnkit.progress import Position
from ncnnkit.progress_on_console import PATIENCE, Shown
from ncnnkit.recipe import Recipe
from ncnnkit.record.stages import Stages


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Screen:
    """A console with readable text, and the progress shown on it."""

    def __init__(self, live: bool) -> None:
        self.clock = Clock()
        self._file = io.StringIO()
        console = Console(file=self._file, force_terminal=live, width=100, color_system=None)
        self.shown = Shown(console, live, self.clock)

    def text(self) -> str:
        """The text since the last call."""
        found = self._file.getvalue()
        self._file.seek(0)
        self._file.truncate()
        return found

    def bar(self) -> str:
        """The text of the bar now."""
        with self.shown._console.capture() as captured:
            self.shown._console.print(self.shown._bar.get_renderable())
        return captured.get()


QUANTISE = Position("quantise", 5, 11)
PLAN = Position("plan", 6, 11)


def test_a_finished_stage_is_a_line_with_its_duration() -> None:
    screen = Screen(live=False)
    screen.shown(QUANTISE, 0, 0)
    screen.clock.now = 1.0
    screen.shown(QUANTISE.at("calibrate"), 3, 10)
    assert screen.text() == "", "a step is no stage"
    screen.clock.now = 72.0
    screen.shown(PLAN, 0, 0)
    assert screen.text() == "✓ 5/11 quantise 1 min 12 s\n"
    screen.clock.now = 72.4
    screen.shown.finish()
    screen.shown.finish()
    assert screen.text() == "✓ 6/11 plan 0.4 s\n"


def test_a_log_is_never_silent_for_long() -> None:
    screen = Screen(live=False)
    screen.shown(PLAN.at("layer costs"), 0, 0)
    for _ in range(3):
        screen.clock.now += PATIENCE - 0.1
        screen.shown.beat()
        assert screen.text() == ""
        screen.clock.now += 0.1
        screen.shown.beat()
        assert screen.text() == f"  Stage 6/11 plan: layer costs, {duration(screen.clock.now)}\n"


def test_a_log_is_checked_when_its_next_line_is_due() -> None:
    """Checking once a second made the silence a second longer than promised."""
    screen = Screen(live=False)
    screen.shown(PLAN, 0, 0)
    screen.clock.now = 1.0
    assert screen.shown.due_in() == pytest.approx(PATIENCE - 1)
    screen.clock.now = PATIENCE
    assert 0 < screen.shown.due_in() < 0.5, "no busy waiting"
    screen.shown.beat()
    assert screen.shown.due_in() == pytest.approx(PATIENCE)


def test_a_step_without_a_total_does_not_show_the_previous_total() -> None:
    screen = Screen(live=True)
    screen.shown(PLAN.at("sensitivity"), 48, 96)
    assert "48/96" in screen.bar()
    screen.shown(PLAN.at("layer costs"), 0, 0)
    screen.clock.now = 30.0
    said = screen.bar()
    assert "Stage 6/11 plan: layer costs" in said
    assert "96" not in said
    assert screen.shown._bar.tasks[0].total is None
    screen.shown(PLAN.at("layer costs"), 1, 4)
    screen.shown(PLAN.at("layer costs"), 1, 0)
    assert screen.shown._bar.tasks[0].total is None, "nor the total that the same step had before"


def test_the_remaining_time_is_that_of_the_step() -> None:
    screen = Screen(live=True)
    screen.shown(QUANTISE.at("exact outputs"), 0, 0)
    screen.clock.now = 100.0
    screen.shown(QUANTISE.at("calibrate"), 0, 50)
    screen.clock.now = 101.0
    screen.shown(QUANTISE.at("calibrate"), 5, 50)
    assert "left" not in screen.bar(), "one second tells nothing"
    screen.clock.now = 110.0
    screen.shown(QUANTISE.at("calibrate"), 10, 50)
    assert "10/50, 1 min 50 s, 40 s left" in screen.bar()
    screen.shown(QUANTISE.at("calibrate"), 50, 50)
    assert "left" not in screen.bar()


def test_the_bar_goes_on_while_nothing_happens() -> None:
    screen = Screen(live=True)
    screen.shown(QUANTISE, 0, 0)
    first = screen.bar()
    screen.clock.now = 3.0
    assert "3.0 s" in screen.bar()
    assert screen.bar() != first


def test_a_stage_that_fails_is_not_finished() -> None:
    screen = Screen(live=False)

    def work() -> None:
        with screen.shown.running() as shown:
            shown(QUANTISE, 0, 0)
            shown(PLAN, 0, 0)
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        work()
    assert screen.text() == "✓ 5/11 quantise 0.0 s\n"


def test_other_commands_have_no_stage_numbers() -> None:
    screen = Screen(live=False)
    screen.shown(Position("measure"), 1, 2)
    screen.shown.finish()
    assert screen.text() == "✓ measure 0.0 s\n"


def test_stages_are_numbered_by_the_expected_list() -> None:
    told: list[Position] = []
    stages = Stages(["open", "quantise", "measure", "measure at"], lambda position, *_: told.append(position))
    for name in ("open", "quantise for vulkan", "measure", "measure at 3x8x8"):
        with stages(name):
            stages.within(name)("step", 1, 2)
    assert [(str(at), at.number, at.of) for at in told[::2]] == [
        ("open", 1, 4), ("quantise for vulkan", 2, 4), ("measure", 3, 4), ("measure at 3x8x8", 4, 4),
    ]  # fmt: skip
    assert str(told[1]) == "open: step"


def test_a_run_goes_through_its_stages_in_order(tmp_path: Path) -> None:
    ncnnfile.save(small(), tmp_path / "m.param")
    np.save(tmp_path / "x.npy", samples(6))
    recipe = Recipe(
        str(tmp_path / "m.param"), images=str(tmp_path / "x.npy"), precisions=("fp32",), backends=("cpu",),
        seconds=0.01, rounds=1, effort="fast",
    )  # fmt: skip
    told: list[Position] = []
    pipeline.run(recipe, tmp_path / "out", lambda position, *_: told.append(position))
    numbers = [number for number, _ in itertools.groupby(at.number for at in told)]
    assert numbers == list(range(1, told[0].of + 1)), "none is missing, none comes twice"


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3725, "1 h 02 min")],
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said
