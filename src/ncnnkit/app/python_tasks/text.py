"""Text by connectionist temporal classification (CTC)."""

from __future__ import annotations

from typing import Any, Dict, List, Sequence

from ncnnkit.app.python_tasks.common import Tile, immutable, label_at, rounded, shaped
from ncnnkit.tasks.ctc import best_path
from ncnnkit.tasks.decoder import Decoder, Table
from ncnnkit.tasks.predictions import Text

JOINS_TILES = False


def makes(facts: Dict[str, Any]) -> str:
    return ""


def answer(tiles: Sequence[Tile], facts: Dict[str, Any]) -> Text:
    """The text."""
    task = facts["task"]
    given = {name: immutable(value) for name, value in task["decoder"].items()}
    output = shaped(tiles[0].outputs[task["output"]], task)
    return best_path(Decoder(**{**given, "tables": (Table(task["output"]),)}), output)


def agreement(found: Text, wanted: Dict[str, Any]) -> float:
    """1 if the text is that of the example, else 0."""
    return float(found.codes.tolist() == [row[0] for row in wanted.get("score", [])])


def lines(found: Text, labels: Sequence[str], top: int) -> List[str]:
    return ["%s\t%s" % (rounded(found.score), found.text)]


def describe(found: Text, labels: Sequence[str], top: int) -> Dict[str, Any]:
    return {"text": found.text, "score": found.score, "codes": found.codes.tolist()}


def draw(found: Text, labels: Sequence[str], image: Any) -> None:
    label_at(image, 0, 0, found.text, 0)


def picture(found: Text) -> Any:
    return None
