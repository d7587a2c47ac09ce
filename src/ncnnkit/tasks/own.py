"""Tasks and figures that a user wrote: ``--task package.module:Name`` and ``--metric package.module:function``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import RecipeError, meant
from ..importing import NotThere, imported
from .decoder import Array
from .figures import Figure, named
from .task import Task


@dataclass(frozen=True)
class Metric(Task):
    """A task whose only figure, ``score``, is a function that the user wrote; more is better.

    Attributes:
        function: (the model's outputs for one sample, the original's) -> a number; 1 where they are equal. The figure
            is its mean over the samples.
        function_name: of the function, for people.
    """

    name = "metric"
    figures = named(Figure("score", "score", "", True, lambda v: (1 - v) ** 2, lambda v: True))
    requires = ("score>=0.99",)

    function: Callable[[Sequence[Array], Sequence[Array]], float] = lambda ours, theirs: 0.0
    function_name: str = ""

    def predict(self, outputs: Sequence[Array]) -> Sequence[Array]:
        """The outputs themselves."""
        return outputs

    def compare(self, ours: Sequence[Array], theirs: Sequence[Array], truth: Any = None) -> float:
        """The function's value."""
        return float(self.function(ours, theirs))

    def summarise(self, rows: Sequence[float]) -> dict[str, float | None]:
        """The mean."""
        return {"score": sum(rows) / len(rows) if rows else None}


def own_task(reference: str) -> type[Task]:
    """The class that a user wrote.

    Raises:
        RecipeError: it cannot be imported, or is no subclass of :class:`~ncnnkit.tasks.Task`.
    """
    found = _imported(reference, "task")
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise RecipeError(f"{reference} is not a subclass of ncnnkit.tasks.Task", where="task")
    missing = [name for name in ("name", "figures", "requires") if not hasattr(found, name)]
    if missing or not isinstance(found.figures, Mapping):
        raise RecipeError(f"{reference} has no {missing[0] if missing else 'mapping of figures'}", where="task")
    return found


def own_metric(reference: str) -> Metric:
    """The task of a user's function. Raises RecipeError where it cannot be imported or called."""
    found = _imported(reference, "metric")
    if not callable(found):
        raise RecipeError(f"{reference} is not a function", where="metric")
    return Metric(function=found, function_name=reference)


def _imported(reference: str, where: str) -> Any:
    """What ``package.module:name`` names; modules in the current folder are found, too."""
    module, _, name = reference.partition(":")
    if not module or not name.isidentifier():
        raise RecipeError(f"{reference!r} is not package.module:name", where=where)
    try:
        return imported(reference)
    except NotThere as error:
        raise RecipeError(f"module {module} has no {name!r}", where=where, hint=meant(name, error.known)) from None
    except Exception as error:  # the user's module may raise anything
        raise RecipeError(f"{module} cannot be imported: {type(error).__name__}: {error}", where=where) from None
