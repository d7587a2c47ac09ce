"""The ONNX project's own tests of its operators: no result may be wrong.

``docs/operators.md`` lists what is refused.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from onnx_nodes import cases, outcomes

sys.path.insert(0, str(Path(__file__).parent.parent / "scripts"))
from operators import PAGE, page

DIFFERENT = {
    "test_gridsample_nearest": "halfway between two pixels",
    "test_gridsample_nearest_align_corners_0_additional_1": "halfway between two pixels",
    "test_gridsample_nearest_align_corners_1_additional_1": "halfway between two pixels",
    "test_gridsample_volumetric_nearest_align_corners_0": "halfway between two pixels",
    "test_gridsample_volumetric_nearest_align_corners_1": "halfway between two pixels",
    "test_resize_downsample_scales_linear_align_corners": "ONNX Runtime answers so, too",
    "test_resize_downsample_scales_cubic_align_corners": "ONNX Runtime answers so, too",
}
"""Test -> why ncnn's answer differs from the expected one.

Halfway between two pixels, ncnn takes the upper one and ONNX the even one. This matters for a computed grid; a constant
grid with such positions is refused.
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_no_operator_is_wrong() -> None:
    found = {case.name: (case, outcome) for case, outcome in outcomes(cases())}
    wrong = {name: outcome.why for name, (_, outcome) in found.items() if outcome.kind == "wrong"}
    assert wrong.keys() == DIFFERENT.keys(), {name: why for name, why in wrong.items() if name not in DIFFERENT}
    assert page(found) == PAGE.read_text(), "run scripts/operators.py"
