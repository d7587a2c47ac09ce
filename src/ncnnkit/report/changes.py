"""Reports on the difference of two runs: for the terminal, as Markdown, and as JUnit XML."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from .. import quoting
from ..record.diff import Diff, Measure, Row

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN = ("latency", "size", "memory", "sqnr")
"""The measures in every table. The measures of the task follow. JSON has all measures."""
_NEVER = ("p90", "load", "cosine", "mse", "max_error")


def shown(known: Mapping[str, Measure]) -> list[Measure]:
    """The measures that are shown in a table."""
    rest = [measure for name, measure in known.items() if name not in (*SHOWN, *_NEVER)]
    return [*(known[name] for name in SHOWN if name in known), *rest]


def diff_table(diff: Diff) -> RenderableType:
    """The text for a terminal: a block for each variant, and the conditions."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("variant", "status", "figure", "before → after"):
        table.add_column(head, overflow="fold")
    for row in diff.rows:
        names = [row.name, row.status]
        for measure in shown(diff.measures):
            if change := row.changes.get(measure.name):
                style = {True: "green", False: "red", None: ""}[change.better]
                table.add_row(*map(Text, names), measure.title, Text(str(change), style=style))
                names = ["", ""]
        if names[0]:
            table.add_row(*map(Text, names))
    parts: list[RenderableType] = [*(Text(f"note: {note}") for note in diff.notes), table]
    parts += [Text(f"{'FAIL' if v.fails else 'pass'}  {v}", style="red" if v.fails else "") for v in diff.verdicts]
    return Group(*parts)


def markdown(diff: Diff) -> str:
    """A summary in Markdown for a pull request."""
    columns = shown(diff.measures)
    lines = [f"- {quoting.markdown(note)}" for note in diff.notes]
    lines += [
        "",
        _line(["Variant", "Status", *(quoting.markdown(m.title) for m in columns)]),
        _line(["---", "---", *("---:" for _ in columns)]),
    ]
    lines += [
        _line([quoting.markdown_code(row.name), row.status, *(_changed(row, measure) for measure in columns)])
        for row in diff.rows
    ]
    if diff.verdicts:
        lines += ["", _line(["Condition", "Result", ""]), _line(["---", "---", "---"])]
        lines += [
            _line([quoting.markdown_code(v.condition.text), "**fail**" if v.fails else "pass", quoting.markdown(v.why)])
            for v in diff.verdicts
        ]
    return "\n".join(lines).strip() + "\n"


def _changed(row: Row, measure: Measure) -> str:
    change = row.changes.get(measure.name)
    if change is None:
        return ""
    mark = {True: " 🟢", False: " 🔴", None: ""}[change.better]
    return f"{quoting.markdown(str(change))}{mark}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def junit(diff: Diff) -> str:
    """The conditions as test cases in JUnit's XML."""
    suite = ElementTree.Element(
        "testsuite", name="ncnnkit diff", tests=str(len(diff.verdicts)), failures=str(len(diff.failed)), errors="0"
    )
    for verdict in diff.verdicts:
        case = ElementTree.SubElement(suite, "testcase", classname="ncnnkit.diff", name=_said(verdict.condition.text))
        if verdict.fails:
            ElementTree.SubElement(case, "failure", message=_said(verdict.why)).text = _said(verdict)
        else:
            ElementTree.SubElement(case, "system-out").text = _said(verdict.why)
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def _said(value: object) -> str:
    return quoting.xml_characters(str(value))
