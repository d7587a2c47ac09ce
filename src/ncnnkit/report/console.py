"""A run on the terminal."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from ..comparison.layers import Comparison
from ..formatting import NOTHING, cosine, decibel, exact, megabytes, percent, plain
from ..model.npus import about_npu
from ..record.conversion import Attempt, ConversionCheck, DecodedCheck
from ..record.plan import LayerOption, PlannedLayer
from ..record.quantisation import Trial
from ..record.run import Run
from ..record.variant import Accuracy, OutputError, Variant, speed_up
from ..samples.items import times
from ..tasks.decoding import NOUNS
from .figures import figure_text, said, task_figures, with_unit

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from ..measure.tune import Candidate
    from ..source.bisection import Bisection

Column = tuple[str, Callable[[Variant], str]]


def headline(run: Run) -> str:
    """The recommendation with its reason, one line."""
    name, why = run.recommended, run.why.rstrip(".")
    if name is None:
        return f"No recommendation: {why}."
    rest = why.removeprefix(f"{name} ")
    return f"Recommended: {name}. It {rest}." if rest != why else f"Recommended: {name}: {why}."


def npus(run: Run) -> list[str]:
    """A paragraph about each device's NPU; see :mod:`ncnnkit.model.npus`."""
    chips = dict.fromkeys(device.machine.board.soc for device in run.devices)
    return [said for chip in chips if (said := about_npu(chip))]


def converted(check: ConversionCheck, origin: str) -> list[str]:
    """Lines about the accuracy of the conversion, and about the other routes that were tried.

    Args:
        origin: the text for what the outputs were compared with.
    """
    against = f"{origin} in floating point" if check.own else origin
    compared = f"{_exact(check.sqnr_db)}, cosine {cosine(check.cosine)}, against {against}"
    compared += _only_exact_to(check.original_sqnr_db)
    seen = (
        compared
        if check.verified
        else "not verified, because there is no original that can be run, or its outputs contain NaN or infinity"
    )
    taken, others = f"conversion by route {check.route}: {seen}", [a for a in check.attempts if a.outcome != "taken"]
    shapes = [
        f"  for inputs of {said_of(each.shapes)}: {_exact(each.sqnr_db)}, against {against}"
        f"{_only_exact_to(each.original_sqnr_db)}"
        for each in check.shapes
    ]
    decoded = [decoded_line(check.decoded)] if check.decoded else []
    return [taken, *decoded, *shapes, *(f"  {_attempted(attempt)}" for attempt in others)]


def _exact(sqnr_db: float | None) -> str:
    return decibel(sqnr_db) + ("" if sqnr_db is None else " dB")


def _only_exact_to(original_sqnr_db: float | None) -> str:
    """The noise of the original itself, as a clause; empty if it explains nothing."""
    if original_sqnr_db is None:
        return ""
    return f", which itself is only exact to {decibel(original_sqnr_db)} dB on these samples"


def said_of(shapes: Sequence[tuple[int, ...]]) -> str:
    """The shapes of inputs, such as ``3x320x320 and 10``."""
    return " and ".join(map(times, shapes))


def decoded_line(check: DecodedCheck) -> str:
    """The comparison of the predictions of a converted network with the original's, in one line."""
    one, several = NOUNS.get(check.decoder, NOUNS["boxes"])
    if not check.original and not check.network:
        return f"decoded: neither the network nor the original has any {several}"
    others = check.network - check.matched
    if not check.original:
        return f"decoded: the network has {check.network} {one if check.network == 1 else several}, the original none"
    if check.matched == check.original:
        shared = f"all {check.original} {several}" if check.original != 1 else f"the only {one}"
    else:
        shared = f"{check.matched or 'none'} of the {check.original} {several}"
    more = f", and {others} {'other' if others == 1 else 'others'}" if others else ""
    exact = "" if check.iou is None else f"; mean IoU {check.iou:.4f}, scores within {check.score_error:.1e}"
    return f"decoded: the network has {shared} of the original{more}{exact}"


def _attempted(attempt: Attempt) -> str:
    """A route that was tried and not taken, in one line."""
    sqnr = f"{decibel(attempt.sqnr_db)} dB, {attempt.layers} layers"
    return f"route {attempt.route} {attempt.outcome}: {attempt.reason or sqnr} ({plain(attempt.seconds)} s)"


MIDDLE = "25–75 %"
"""The column with the middle half of the samples. A narrow terminal drops it first."""

SPARE = ("RAM MB", "p90", "load ms", "MSE", "speed")
"""Columns that a narrow terminal drops, in this order. Before these, it drops the figures of the task except the first,
and after these, the first figure of the task. run.json and the report have everything."""


def there(variants: Sequence[Variant]) -> list[Variant]:
    """The variants without those of a backend that a device does not have.

    A device has no GPU if all variants on Vulkan were skipped or fell back to the CPU for the same reason. The reason
    is then one line below the table, instead of a row for each precision.
    """
    reasons: dict[tuple[str, str], set[str]] = {}
    for row in variants:
        ran = row.backend == "cpu" or row.status in ("ok", "crashed")
        reasons.setdefault((row.device, row.backend), set()).add("" if ran else row.reason)
    return [row for row in variants if len(found := reasons[row.device, row.backend]) > 1 or "" in found]


def _task_figure(name: str, variant: Variant) -> str:
    return figure_text(variant.accuracy.figure(name)) if variant.accuracy else NOTHING


def _latency_at(index: int, variant: Variant) -> str:
    found = variant.latency_at[index].latency_ms
    return plain(found.median if found else None)


def console_table(variants: Sequence[Variant], recommended: str | None = None, width: int = 100) -> Table:
    """The table of the variants, with a row for each. Empty columns are left out.

    Args:
        variants: the variants of a run, or of a bench.
        recommended: the name of the variant to mark.
        width: the width of the terminal, in characters. Columns are dropped until the table fits.
    """
    from rich.table import Table
    from rich.text import Text

    variants = there(variants)
    of_task = task_figures(variants)
    columns: list[Column] = [
        ("ms", lambda v: plain(v.latency_ms.median if v.latency_ms else None)),
        (MIDDLE, lambda v: f"{plain(v.latency_ms.p25)}–{plain(v.latency_ms.p75)}" if v.latency_ms else NOTHING),
        ("p90", lambda v: plain(v.latency_ms.p90 if v.latency_ms else None)),
        ("speed", lambda v: _times(speed_up(variants, v))),
        ("load ms", lambda v: plain(v.load_ms.cold if v.load_ms else None)),
        ("MB", lambda v: megabytes(v.size_bytes)),
        ("RAM MB", lambda v: plain(v.peak_memory_mb)),
        ("MSE", lambda v: exact(v.accuracy.mse if v.accuracy else None)),
        ("dB", lambda v: decibel(v.accuracy.sqnr_db) if v.accuracy else NOTHING),
        ("cosine", lambda v: cosine(v.accuracy.cosine if v.accuracy else None, 5)),
        *((with_unit(each.name, each), partial(_task_figure, each.name)) for each in of_task),
    ]
    columns[1:1] = [
        (f"ms at {said_of(at.shapes)}", partial(_latency_at, index))
        for index, at in enumerate(variants[0].latency_at if variants else [])
    ]
    rows = [[text(variant) for _, text in columns] for variant in variants]
    shown = [i for i in range(len(columns)) if any(row[i] != NOTHING for row in rows)]
    names = [variant.name + (" *" if variant.name == recommended else "") for variant in variants]
    fixed = max(map(len, ["variant", *names])) + 2 + max(map(len, ["status", *(v.status for v in variants)]))
    widths = [2 + max(map(len, [columns[i][0], *(row[i] for row in rows)])) for i in range(len(columns))]
    heads = [with_unit(each.name, each) for each in of_task]
    for spare in (MIDDLE, *heads[:0:-1], *SPARE, *heads[:1]):
        if fixed + sum(widths[i] for i in shown) > width:
            shown = [i for i in shown if columns[i][0] != spare]
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("variant", no_wrap=True)
    table.add_column("status", no_wrap=True)
    for i in shown:
        table.add_column(columns[i][0], justify="right", no_wrap=True)
    for variant, name, row in zip(variants, names, rows):
        style = "bold green" if variant.name == recommended else "" if variant.status == "ok" else "dim"
        table.add_row(Text(name), variant.status, *(row[i] for i in shown), style=style)
    if recommended is not None:
        table.caption = "* recommended"
        table.caption_justify = "left"
    return table


def trials_table(trials: Sequence[Trial]) -> Table:
    """The methods of quantising that were tried, with a row for each."""
    rows = [
        (t.method, exact(t.relative_error), decibel(t.sqnr_db), "yes" if t.kept else "no", plain(t.seconds))
        for t in trials
    ]
    return _table(("method", "noise / signal (held-back images)", "dB", "kept", "s"), rows)


LAYER_ORDERS: dict[str, Callable[[PlannedLayer], Any]] = {
    "network": lambda layer: 0,
    "name": lambda layer: layer.name,
    "type": lambda layer: layer.type,
    "choice": lambda layer: layer.choice,
    "ms": lambda layer: -(chosen(layer).ms or 0.0),
    "error": lambda layer: -(math.inf if chosen(layer).noise is None else chosen(layer).noise or 0.0),
}
"""Name of an order of a plan's layers -> its sort key; times and errors are sorted from the largest."""


def chosen(layer: PlannedLayer) -> LayerOption:
    """The option that a plan took for a layer."""
    return next(option for option in layer.options if option.choice == layer.choice)


def plan_table(layers: Sequence[PlannedLayer], order: str = "network", width: int = 100) -> Table:
    """The plan, with a row for each layer.

    Args:
        order: a name in :data:`LAYER_ORDERS`.
        width: the width of the terminal, in characters.
    """
    rows = [
        (layer.name, layer.type, layer.choice, plain(chosen(layer).ms), exact(chosen(layer).noise), layer.why)
        for layer in sorted(layers, key=LAYER_ORDERS[order])
    ]
    return _table(
        ("layer", "type", "choice", "ms", "error", "why"), rows, left=("layer", "type", "choice", "why"),
        caption="ms: the layer alone. error: its part of the outputs' noise over signal. Both are predicted.",
        width=width, spare=("type", "why"),
    )  # fmt: skip


def layer_table(layer: PlannedLayer) -> Table:
    """The choices for a layer, with the predicted time and noise of each."""
    rows = [(o.choice + (" *" if o.choice == layer.choice else ""), plain(o.ms), exact(o.noise)) for o in layer.options]
    return _table((layer.name, "ms", "noise over signal"), rows)


def tuning_table(candidates: Sequence[Candidate]) -> Table:
    """The candidates, with a row for each. Those that stayed longest in the search come first.

    It shows ratios instead of times, because a turn is only comparable with the defaults in the same turn.
    """
    rows = [
        (row.name, NOTHING if row.rungs is None else str(row.rungs),
         _times(1 / row.ratio if row.ratio else None), cosine(row.cosine, 5), row.reason)
        for row in candidates
    ]  # fmt: skip
    table = _table(("candidate", "rungs won", "speed", "cosine", "dropped"), rows)
    table.caption = (
        "speed: relative to ncnn's defaults in the same turns, in the last rung of the candidate; more rungs mean more "
        "timing. cosine: against fp32 on random values, which shows a broken kernel, not the accuracy"
    )
    return table


def profile_table(layers: Sequence[Mapping[str, Any]], width: int = 100) -> Table:
    """The layers of a profile in the order of execution, with a row for each.

    Args:
        layers: the layers, as ``ncnnkit profile --json`` prints them.
        width: the width of the terminal, in characters.
    """
    rows = [
        (row["name"], row["type"], row["runs_on"], row["precision"] or NOTHING,
         NOTHING if row["bits"] is None else str(row["bits"]), plain(row["ms"]), percent(row["share"]))
        for row in layers
    ]  # fmt: skip
    return _table(
        ("layer", "type", "on", "precision", "bits", "ms", "%"), rows, left=("layer", "type", "on", "precision"),
        caption="precision: of its arithmetic, or of its stored blobs; bits: of one output value",
        width=width, spare=("bits", "type", "on"),
    )  # fmt: skip


def bisection_table(found: Bisection) -> Table:
    """The comparison of every layer of a converted network with the original, in the order of execution."""
    rows = [
        (check.layer, check.type, times(check.shape), check.tensor.name, check.tensor.maker,
         times(check.tensor.values.shape), decibel(check.sqnr_db),
         "" if not check.wrong else "first wrong" if check is found.first_wrong else "wrong")
        for check in found.layers
    ]  # fmt: skip
    heads = ("layer", "type", "shape", "original", "made by", "its shape", "SQNR dB", "")
    table = _table(heads, rows, left=heads[:6])
    table.caption = "wrong: the output of the layer is much noisier than its inputs"
    if not found.exact:
        table.caption += ". The converter does not name a layer's tensor; the most similar one of its size is shown"
    return table


ENOUGH = 12
"""Characters that a column of long texts needs to be readable."""


def _table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str] = (), caption: str = "",
    width: int | None = None, spare: Sequence[str] = (),
) -> Table:  # fmt: skip
    """A table. Long texts are folded, but no figure and no word of a heading if the table fits.

    Args:
        left: the columns of texts; the others are figures. Empty: the first.
        width: the width of the terminal, in characters.
        spare: the columns that a narrow terminal leaves out, in this order, until the table fits.
    """
    from rich.table import Table
    from rich.text import Text

    texts = left or columns[:1]
    needs = {
        head: max([0, *map(len, head.split()), *(min(len(cell), ENOUGH) for cell in cells)])
        for head, cells in zip(columns, zip(*rows))
    }
    dropped: list[str] = []
    for head in spare:
        if width is not None and sum(needs.values()) + 2 * (len(needs) - 1) > width and head in needs:
            del needs[head]
            dropped.append(head)
    if dropped:
        caption = f"{caption}\nnot shown, because the terminal is narrow: {', '.join(dropped)} (--json has everything)"
    table = Table(box=None, pad_edge=False, header_style="bold", caption=caption or None, caption_justify="left")
    kept = [index for index, head in enumerate(columns) if head not in dropped]
    for index in kept:
        table.add_column(columns[index], justify="left" if columns[index] in texts else "right", overflow="fold")
    for row in rows:
        table.add_row(*(Text(row[index]) for index in kept))
    return table


def comparison_table(found: Comparison) -> RenderableType:
    """The errors of one model's outputs against another's, and the errors of its layers, if known."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    accuracy = found.accuracy
    outputs = Table(box=None, pad_edge=False, header_style="bold")
    outputs.add_column("output", overflow="fold")
    for column in ("MSE", "SQNR dB", "cosine", "max error"):
        outputs.add_column(column, justify="right", no_wrap=True)
    rows: list[tuple[str, OutputError | Accuracy]] = [(row.name, row) for row in accuracy.outputs]
    for name, row in rows if len(rows) == 1 else [*rows, ("all together", accuracy)]:
        outputs.add_row(Text(name), exact(row.mse), decibel(row.sqnr_db), cosine(row.cosine), exact(row.max_error))
    says = "".join(f"; {said(figure)}" for figure in accuracy.task)
    parts: list[RenderableType] = [outputs, f"over {accuracy.images} images{says}"]
    parts += [Text(said) for said in accuracy.other_shapes()]
    if not found.layers:
        return Group(*parts)
    layers = Table(box=None, pad_edge=False, header_style="bold")
    layers.add_column("layer", overflow="fold")
    layers.add_column("type", no_wrap=True)
    layers.add_column("SQNR dB", justify="right", no_wrap=True)
    for layer in found.layers:
        # None means an exact output or an output of zeros, so it is not called exact.
        layers.add_row(Text(layer.name), layer.type, NOTHING if layer.sqnr_db is None else decibel(layer.sqnr_db))
    return Group(*parts, "", layers)


def _times(factor: float | None) -> str:
    return NOTHING if factor is None else f"{factor:.2f}×"
