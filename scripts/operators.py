"""Write docs/operators.md: the ncnn layers of each ONNX operator, the cases that are refused, and the results of tests.

python scripts/operators.py    # runs the ONNX project's tests of its operators, in about a minute

The layers are those of the networks in the tests. The refused cases are read from the code: the texts of
``Unsupported`` in the function of an operator, and in the private functions of its module that it calls.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from onnx_nodes import Case, Outcome, cases, outcomes  # noqa: E402

from ncnnkit.source.onnx import OPERATORS  # noqa: E402

PAGE = ROOT / "docs" / "operators.md"

INTRODUCTION = """\
# Operators of ONNX

<!-- Made by scripts/operators.py. Change the code that it reads. -->

ncnnkit converts an ONNX file with a table of operators. For each operator, this page lists the ncnn layers that it
becomes, the cases in which it is refused, and the results of the ONNX project's own tests. A model with a refused
operator is not converted by this route. The error names the operator, its place in the model and the reason.

The tests give weights, sizes and other whole numbers as constants, as real models do. {total}: {right} are right,
{refused} are refused, and {wrong} differ from what the test expects. [test_onnx_nodes.py](../tests/test_onnx_nodes.py)
lists the reason for each difference. Tests of models without inputs, of texts and of optional values are left out.
[test_onnx_random.py](../tests/test_onnx_random.py) compares every operator with ONNX Runtime for random shapes and
attributes, too.

Every operator is refused in three cases: it makes or reads an empty tensor; its tensor has more than ncnn's
four axes, even after merging axes; or ncnn computes it image by image, and the batch is larger than 64.

"At run time" means that a value is not known before the network gets its inputs. `Reshape`, `Squeeze`, `Unsqueeze`
and `Flatten` need no layer if ncnn's blobs have the elements in the same shape. `Split` layers are not listed. ONNX
Runtime computes everything that does not depend on the inputs during the conversion, with any operator.
"""


Functions = Mapping[str, ast.FunctionDef]


def functions(module: str) -> Functions:
    """The functions of a module by name."""
    tree = ast.parse(Path(sys.modules[module].__file__ or "").read_text())
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def called(name: str, known: Functions) -> Iterator[ast.FunctionDef]:
    """A function, and all private functions that it uses directly or indirectly, each once."""
    waiting, seen = [name], set()
    while waiting:
        name = waiting.pop(0)
        if name in seen or name not in known:
            continue
        seen.add(name)
        yield known[name]
        named = {node.id for node in ast.walk(known[name]) if isinstance(node, ast.Name)}
        waiting += sorted(other for other in named if other.startswith("_"))


def refusals(operator: Callable[..., None]) -> list[str]:
    """The reasons for which the function of an operator refuses a node."""
    found: dict[str, None] = {}
    for function in called(operator.__name__, functions(operator.__module__)):
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            if isinstance(node.func, ast.Name) and node.func.id == "Unsupported":
                found[text(node.args[0])] = None
            elif isinstance(node.func, ast.Attribute) and node.func.attr == "needed_constant":
                found[f"computes its {text(node.args[1])} at run time"] = None
    return list(found)


def text(node: ast.expr) -> str:
    """A literal text. Values in it become "…"."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else "…"


def page(found: Mapping[str, tuple[Case, Outcome]]) -> str:
    """The page, from the outcomes of the tests by name."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    layers: dict[str, Counter[str]] = defaultdict(Counter)
    for case, outcome in found.values():
        counts[case.operator][outcome.kind] += 1
        layers[case.operator].update(outcome.layers)
    total = sum((count for count in counts.values()), Counter[str]())
    numbers = {kind: total[kind] for kind in ("right", "refused", "wrong")}
    lines = [INTRODUCTION.format(total=f"Of {total.total()} tests", **numbers)]
    for domain in sorted({domain for domain, _ in OPERATORS}):
        lines += [f"\n## {domain or 'ai.onnx'}\n"]
        lines += ["| operator | layers of ncnn | refused if it … | tests: right | refused | differ |"]
        lines += ["| --- | --- | --- | ---: | ---: | ---: |"]
        for name in sorted(name for d, name in OPERATORS if d == domain):
            count = counts[name] if not domain else Counter[str]()
            made = ", ".join(layer for layer, _ in layers[name].most_common() if not domain)
            why = "; ".join(refusals(OPERATORS[domain, name]))
            shown = [str(count[kind]) if count else "" for kind in ("right", "refused", "wrong")]
            lines.append(f"| {name} | {made} | {why} | {' | '.join(shown)} |")
    return "\n".join(lines).replace("|  |", "| |") + "\n"


def main() -> None:
    all_cases = cases()
    found = {}
    for number, (case, outcome) in enumerate(outcomes(all_cases), 1):
        found[case.name] = (case, outcome)
        print(f"\r{number} of {len(all_cases)} tests", end="", file=sys.stderr)
    PAGE.write_text(page(found))
    print(f"\n{PAGE}", file=sys.stderr)


if __name__ == "__main__":
    main()
