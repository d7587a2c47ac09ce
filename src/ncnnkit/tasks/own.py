"""Tasks and figures that a user wrote: ``--task package.module:Name`` and ``--metric package.module:function``.

In Python, they may also be the class and the function themselves.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from ..errors import RecipeError, meant
from ..formatting import object_name, with_article
from ..importing import NotThere, imported
from .decoder import Array
from .figures import Figure, named
from .task import Task


@dataclass(frozen=True)
class Metric(Task):
    """A task with a single figure, ``score``: a function that the user wrote. A larger value is better.

    Attributes:
        function: (the model's outputs for one sample, the original's outputs) -> a number; 1 if they are equal. The
            figure is its mean over the samples.
        function_name: the name of the function for texts.
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
        """The value of the function.

        Raises:
            RecipeError: the function raises an exception, or does not return a number.
        """
        try:
            found = self.function(ours, theirs)
        except Exception as error:  # the user's function may raise anything
            raise self._wrong(f"raises {type(error).__name__}: {error}") from error
        try:
            return float(found)
        except (TypeError, ValueError):
            raise self._wrong(f"returns {with_article(found)}, not a number") from None

    def _wrong(self, what: str) -> RecipeError:
        hint = (
            "it gets two lists of arrays, the model's outputs and the original's for one sample, and returns a number"
        )
        return RecipeError(f"{self.function_name} {what}", where="metric", hint=hint)

    def summarise(self, rows: Sequence[float]) -> dict[str, float | None]:
        """The mean."""
        return {"score": sum(rows) / len(rows) if rows else None}


def own_task(given: str | type[Task]) -> type[Task]:
    """The class that a user wrote, from ``package.module:Name`` or from the class itself.

    Raises:
        RecipeError: it cannot be imported, or is not a subclass of :class:`~ncnnkit.tasks.Task`.
    """
    found = _imported(given, "task") if isinstance(given, str) else given
    reference = given if isinstance(given, str) else object_name(given)
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise RecipeError(f"{reference} is not a subclass of ncnnkit.tasks.Task", where="task")
    missing = [name for name in ("name", "figures", "requires") if not hasattr(found, name)]
    if missing or not isinstance(found.figures, Mapping):
        raise RecipeError(f"{reference} has no {missing[0] if missing else 'mapping of figures'}", where="task")
    return found


def own_metric(given: str | Callable[..., Any]) -> Metric:
    """The task of a user's function, from ``package.module:function`` or from the function itself.

    Raises:
        RecipeError: it cannot be imported, or cannot be called with two arguments.
    """
    found = _imported(given, "metric") if isinstance(given, str) else given
    made = Metric(function=found, function_name=given if isinstance(given, str) else object_name(given))
    if not callable(found):
        raise made._wrong("is not a function")
    with suppress(ValueError):  # some built-in functions have no signature
        try:
            inspect.signature(found).bind((), ())
        except TypeError as error:
            raise made._wrong(f"cannot be called with two arguments: {error}") from None
    return made


def _imported(reference: str, where: str) -> Any:
    """Import ``package.module:name``. Modules in the current folder are found, too."""
    module, _, name = reference.partition(":")
    if not module or not name.isidentifier():
        raise RecipeError(f"{reference!r} is not package.module:name", where=where)
    try:
        return imported(reference)
    except NotThere as error:
        raise RecipeError(f"module {module} has no {name!r}", where=where, hint=meant(name, error.known)) from None
    except Exception as error:  # the user's module may raise anything
        raise RecipeError(f"{module} cannot be imported: {type(error).__name__}: {error}", where=where) from None
