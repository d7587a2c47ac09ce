"""Which samples of a run its programs are tested with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..comparison.noise import Noise, sqnr_db
from ..comparison.outputs import Outputs
from ..record.examples import FILE_BYTES, MOST, OUTPUT_BYTES, Example, Examples, checked, content_of, near
from ..samples.images import ImageSet
from ..samples.items import ArrayFile, Picture, Row


def choose_examples(evaluation: ImageSet, reference: Outputs, measured: Mapping[str, Outputs]) -> Examples:
    """The first samples that are small enough, evenly spread over the set.

    Args:
        evaluation: the samples of the networks with one input. Tiles of an image are no examples: a program runs all.
        reference: the original's outputs for them.
        measured: variant -> its outputs. A slow variant may have run only the first samples.
    """
    if len(evaluation.inputs) != 1 or not len(evaluation):
        return Examples()
    rows: dict[int, Example] = {}
    step = max(1, len(evaluation) // MOST)
    for index in range(0, len(evaluation), step):
        item, outputs = evaluation.items[index], reference[index]
        picture = item if isinstance(item, Picture) else None
        if (picture and picture.tile is not None) or sum(output.nbytes for output in outputs) > OUTPUT_BYTES:
            continue
        # A program normalises an array itself.
        inputs = replace(item, preprocess=None).load() if isinstance(item, (ArrayFile, Row)) else item.load()
        ending, content = content_of(Path(picture.path) if picture else None, inputs)
        if len(content) <= FILE_BYTES and len(rows) < MOST:
            rows[index] = Example(ending, content, outputs, evaluation.placement(index))
    ran = {name: [index for index in rows if index < len(each)] for name, each in measured.items()}
    return Examples(
        tuple(rows.values()),
        {name: _sqnr(indices, measured[name], reference) for name, indices in ran.items() if indices},
    )


def _sqnr(indices: list[int], outputs: Outputs, reference: Outputs) -> float:
    noise = Noise()
    for index in indices:
        noise.add([checked(output) for output in outputs[index]], [checked(output) for output in reference[index]])
    return near(sqnr_db(noise.relative))
