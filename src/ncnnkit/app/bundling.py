"""A file in Python that stands alone: what it imports from ncnnkit becomes part of it, as far as it is needed."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from .. import onboard

_SOURCES = Path(onboard.__file__).parents[1]
_PACKAGE = __name__.partition(".")[0]
_TASKS = f"{__name__.rpartition('.')[0]}.python_tasks"


def standalone(text: str, kind: str) -> str:
    """A file that needs nothing of ncnnkit.

    Names are those of one module then: what two modules call alike must be the same.

    Args:
        text: the file. It imports the module ``classification`` of ``python_tasks``.
        kind: the module of ``python_tasks`` that takes its place.
    """
    bundle = _Bundle(kind)
    code = bundle.with_imported(text, f"{_PACKAGE}.{Path(__file__).parent.name}.python")
    code, used = _needed(code)
    begin = "".join(text.splitlines(keepends=True)[: _after_future(text)])
    return f"{begin}\n{_import_lines(bundle.imports, used)}\n\n{code.strip()}\n"


class _Bundle:
    """What was collected of the modules so far.

    Attributes:
        imports: name of a module that is not ncnnkit's -> the names that are imported from it; "" for itself, and
            "as NAME" for itself under that name.
    """

    def __init__(self, kind: str) -> None:
        self.imports: dict[str, set[str]] = {}
        self._done: set[str] = set()
        self._kind = kind

    def with_imported(self, text: str, package: str) -> str:
        """The code behind ``from __future__``, with that of modules of ncnnkit in the place of their imports.

        Args:
            text: of a module.
            package: that the module is in.
        """
        lines = text.splitlines(keepends=True)
        after = _after_future(text)
        for node in ast.parse(text).body:
            if node.lineno <= after or not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            code = self._code_of(node, package)
            lines[node.lineno - 1 : node.end_lineno] = [code, *[""] * ((node.end_lineno or 0) - node.lineno)]
        return "".join(lines[after:])

    def _code_of(self, node: ast.Import | ast.ImportFrom, package: str) -> str:
        """What takes the place of an import: the code of a module of ncnnkit; nothing for others, which it notes."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                self.imports.setdefault(alias.name, set()).add(f"as {alias.asname}" if alias.asname else "")
            return ""
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        name = ".".join([*above, *filter(None, [node.module])])
        if name.partition(".")[0] != _PACKAGE:
            name = {"collections.abc": "typing"}.get(name, name)  # one name comes from one module
            self.imports.setdefault(name, set()).update(alias.name for alias in node.names)
            return ""
        name = f"{_TASKS}.{self._kind}" if name == f"{_TASKS}.classification" else name
        if name in self._done:
            return ""
        self._done.add(name)
        path = _SOURCES.joinpath(*name.split(".")[1:]).with_suffix(".py")
        return self.with_imported(path.read_text(encoding="utf-8"), name.rpartition(".")[0])


def _after_future(text: str) -> int:
    """The number of the line with ``from __future__``, behind which a module's code begins."""
    return next(node.end_lineno or 0 for node in ast.parse(text).body if isinstance(node, ast.ImportFrom))


def _import_lines(imports: dict[str, set[str]], used: set[str]) -> str:
    """Import statements for those names that are used."""
    whole, parts = [], []
    for module, names in sorted(imports.items()):
        plain = "" in names and module.partition(".")[0] in used
        whole += [f"import {module}\n"] if plain else []
        whole += [f"import {module} {n}\n" for n in sorted(names) if n.startswith("as ") and n[3:] in used]
        chosen = sorted(names & used)
        parts += [f"from {module} import {', '.join(chosen)}\n"] if chosen else []
    return "".join([*whole, *parts])


def _needed(code: str) -> tuple[str, set[str]]:
    """The code without functions, classes and constants that nothing uses; and the names that are used."""
    body = ast.parse(code).body
    defined = [_defined(node) for node in body]
    uses = [{part.id for part in ast.walk(node) if isinstance(part, ast.Name)} for node in body]
    used: set[str] = set()
    while more := set().union(*(u for u, own in zip(uses, defined) if own is None or own & used)) - used:
        used |= more
    lines = code.splitlines(keepends=True)
    dropped = False
    for node, own in zip(body, defined):
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)  # of what is before it
        dropped = dropped if docstring else own is not None and not own & used
        if dropped:
            first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))]) - 1
            while first and lines[first - 1].startswith("#") and not _is_rule(lines[first - 1]):
                first -= 1
            lines[first : node.end_lineno] = [""] * ((node.end_lineno or 0) - first)
    text = "".join(line for line in lines if not _is_rule(line))
    return re.sub(r"\n{4,}", "\n\n\n", text), used


def _is_rule(line: str) -> bool:
    """Whether it is a line across the page, with the name of what follows."""
    return line.startswith("# ----")


def _defined(node: ast.stmt) -> set[str] | None:
    """The names that a statement defines; None for one that does something."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return None
