"""Makes Python files standalone: copies the modules of ncnnkit that a file imports, without unused functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .. import onboard

PARTS = "parts"
"""The package of the copied modules."""

_SOURCES = Path(onboard.__file__).parents[1]
_PACKAGE = __name__.partition(".")[0]
_TASKS = f"{__name__.rpartition('.')[0]}.python_tasks"


def standalone(text: str, kind: str) -> dict[str, str]:
    """Make files that do not need ncnnkit.

    Args:
        text: the code of a file.
        kind: the module of ``python_tasks`` that replaces ``classification``; it becomes ``parts/task.py``.

    Returns:
        path -> code. The path of ``text`` is ``""``.
    """
    bundle = _Bundle(kind)
    bundle.add("", text, f"{_PACKAGE}.{Path(__file__).parent.name}.python")
    used = bundle.used()
    files = {}
    for name, module in bundle.modules.items():
        code = _without_unused(module, name, used)
        if code.strip():
            imports = "".join(_import_lines(module, code))
            files[f"{PARTS}/{name}.py" if name else ""] = f"{module.begin}{imports}\n\n{code.strip()}\n"
    return files


Use = tuple[str, str]
"""(a module, a name in it), or (:data:`ANY`, the name of an attribute)."""
ANY = "."
"""Stands for any object, because the object of an attribute is unknown."""


@dataclass
class _Module:
    """A module that becomes a file.

    Attributes:
        begin: the first paragraph of its docstring, and ``from __future__``.
        code: the rest, without the imports at the top.
        imports: name of a module outside ncnnkit -> the names that are imported from it. "" means the module itself,
            and "as NAME" the module under that name.
        parts: name of a module in :data:`PARTS` -> the names that are imported from it.
    """

    begin: str
    code: str
    imports: dict[str, set[str]] = field(default_factory=dict)
    parts: dict[str, set[str]] = field(default_factory=dict)


class _Bundle:
    """The modules collected so far, by their names in :data:`PARTS`."""

    def __init__(self, kind: str) -> None:
        self.modules: dict[str, _Module] = {}
        self._names: dict[str, str] = {}  # name of a module of ncnnkit -> its name in PARTS
        self._kind = kind

    def add(self, name: str, text: str, package: str) -> None:
        """Add a module of a package, and the modules of ncnnkit that it imports."""
        lines, body = text.splitlines(keepends=True), ast.parse(text).body
        after = next(node.end_lineno or 0 for node in body if isinstance(node, ast.ImportFrom))
        said = f'"""{(ast.get_docstring(ast.parse(text)) or "").partition(chr(10) * 2)[0]}"""'
        begin = f"{said}\n\n{lines[after - 1]}" if name else "".join(lines[:after])
        module = self.modules[name] = _Module(begin, "")
        for node in body:
            if node.lineno > after and isinstance(node, ast.Import | ast.ImportFrom):
                self._take(node, module, package)
                lines[node.lineno - 1 : node.end_lineno] = [""] * ((node.end_lineno or 0) - node.lineno + 1)
        module.code = "".join(lines[after:])

    def _take(self, node: ast.Import | ast.ImportFrom, module: _Module, package: str) -> None:
        """Record an import, and add its module if it belongs to ncnnkit."""
        if isinstance(node, ast.Import):
            for alias in node.names:
                module.imports.setdefault(alias.name, set()).add(f"as {alias.asname}" if alias.asname else "")
            return
        above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
        name = ".".join([*above, *filter(None, [node.module])])
        names = {alias.name for alias in node.names}
        if name.partition(".")[0] != _PACKAGE:
            module.imports.setdefault(name, set()).update(names)
            return
        is_task = name == f"{_TASKS}.classification"
        name = f"{_TASKS}.{self._kind}" if is_task else name
        within, _, last = name.rpartition(".")
        if name not in self._names:
            self._names[name] = "task" if is_task else last
            path = _SOURCES.joinpath(*name.split(".")[1:]).with_suffix(".py")
            self.add(self._names[name], path.read_text(encoding="utf-8"), within)
        module.parts.setdefault(self._names[name], set()).update(names)

    def used(self) -> set[Use]:
        """All names that statements with an effect use, directly or through other functions and classes."""
        uses: list[tuple[set[Use] | None, set[Use]]] = []
        for name, module in self.modules.items():
            origin = {each: part for part, names in module.parts.items() for each in names}
            for node in ast.parse(module.code).body:
                methods = _methods(node)
                for part in (node, *methods):
                    nodes = list(_walk(part, () if part in methods else methods))
                    names = {(origin.get(each.id, name), each.id) for each in nodes if isinstance(each, ast.Name)}
                    attributes = {(ANY, each.attr) for each in nodes if isinstance(each, ast.Attribute)}
                    uses.append((_own(part, name, methods), names | attributes))
        found: set[Use] = set()
        while more := set().union(*(u for own, u in uses if own is None or own & found)) - found:
            found |= more
        return found


def _import_lines(module: _Module, code: str) -> Iterator[str]:
    """Import statements for the names that a module's code uses: standard library, numpy, then :data:`PARTS`."""
    used = _names(ast.parse(code))
    own: list[str] = []
    others: list[str] = []
    for name, names in sorted(module.imports.items()):
        lines = own if name.partition(".")[0] != "numpy" else others
        lines += [f"import {name}\n"] if "" in names and name.partition(".")[0] in used else []
        lines += [f"import {name} {each}\n" for each in sorted(names) if each.startswith("as ") and each[3:] in used]
    for name, names in sorted(module.imports.items()):
        lines = own if name.partition(".")[0] != "numpy" else others
        lines += [f"from {name} import {', '.join(sorted(names & used))}\n"] if names & used else []
    parts = [
        _wrapped(f"from {PARTS}.{name} import ", sorted(names & used))
        for name, names in sorted(module.parts.items())
        if names & used
    ]
    for lines in filter(None, (own, others, parts)):
        yield "\n"
        yield from lines


def _wrapped(begin: str, names: list[str]) -> str:
    line = f"{begin}{', '.join(names)}\n"
    return line if len(line) <= 121 else f"{begin}(\n    {', '.join(names)}\n)\n"


def _without_unused(module: _Module, name: str, used: set[Use]) -> str:
    """The code of a module without unused functions, classes, methods and constants."""
    lines = module.code.splitlines(keepends=True)
    dropped = False
    for node in ast.parse(module.code).body:
        own = _own(node, name, ())
        docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)  # of the statement before it
        dropped = dropped if docstring else own is not None and not own & used
        for part in [node] if dropped else [each for each in _methods(node) if (ANY, each.name) not in used]:
            first = min([part.lineno, *(each.lineno for each in getattr(part, "decorator_list", []))]) - 1
            while first and lines[first - 1].startswith("#") and not _is_rule(lines[first - 1]):
                first -= 1
            first -= part is not node  # also remove the empty line before a method
            lines[first : part.end_lineno] = [""] * ((part.end_lineno or 0) - first)
    text = "".join(line for line in lines if not _is_rule(line))
    return re.sub(r"\n{4,}", "\n\n\n", text)


def _is_rule(line: str) -> bool:
    """Whether it is a separator line with a heading."""
    return line.startswith("# ----")


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _walk(node: ast.AST, without: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """A node and all nodes in it, without some children."""
    yield node
    for part in ast.iter_child_nodes(node):
        if part not in without:
            yield from _walk(part, without)


def _methods(node: ast.stmt) -> list[ast.FunctionDef]:
    """The methods of a class that are only called by name. If there is a base class, its code may call any method."""
    if not isinstance(node, ast.ClassDef) or node.bases:
        return []
    return [each for each in node.body if isinstance(each, ast.FunctionDef) and not each.name.startswith("__")]


def _own(node: ast.stmt, module: str, methods: Sequence[ast.stmt]) -> set[Use] | None:
    """The names that a statement defines; None for a statement with an effect."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {(ANY if node in methods else module, node.name)}
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return {(module, part.id) for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return None
