"""The result of a run in Python: :class:`Result`, made by :func:`ncnnkit.run` and :func:`open_run`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .app.models import artifact_of, choose, find_variant
from .artifact import Artifact
from .errors import StorageError, ToolError, printable
from .formatting import NOTHING, cosine, decibel, megabytes, plain
from .record.folder import REPORT, load_run
from .record.run import Run
from .record.variant import Variant, speed_up
from .report.figures import figure_text, task_figures, with_unit

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class LayerResult:
    """A layer of a variant's network, with what the run measured of it.

    Attributes:
        name: the layer's name in the ``.param`` file.
        type: its type, as ncnn names it.
        shape: the shape of its first output, without a batch axis; None if unknown.
        parameters: the number of its weights.
        precision: ``int8`` and so on; empty if the precision of the neighbours decides.
        ms: predicted time of the layer alone, ms; None if there is no plan.
        alone_db: predicted SQNR of the network's outputs if only this layer had the precision, dB; infinite for no
            error, None if there is no plan.
        sqnr_db: SQNR of the layer's own output against fp32, with the errors of the layers before it, dB; infinite for
            no error, None if it was not measured.
        why: the reason for the precision in a mixed model; otherwise empty.
    """

    name: str
    type: str
    shape: tuple[int, ...] | None
    parameters: int
    precision: str
    ms: float | None
    alone_db: float | None
    sqnr_db: float | None
    why: str


@dataclass(frozen=True, repr=False)
class Result:
    """A finished run. ``print`` shows its table, and so does a notebook.

    Attributes:
        run: everything that run.json holds; ``docs/run-json.md`` explains each field.
        folder: the run folder, with the models and the report.

    Example:
        >>> result = nk.open_run("out")
        >>> result.best.status, result.best.latency_ms.median > 0  # ms
        ('ok', True)
        >>> [variant.name for variant in result.variants]
        ['fp32-cpu', 'int8-cpu']
        >>> with nk.Session(result.model("int8")) as net:
        ...     net.run(np.zeros((3, 224, 224), np.float32)).shape
        (10,)
    """

    run: Run
    folder: Path

    @property
    def variants(self) -> list[Variant]:
        """The measured variants: each precision on each backend of each device."""
        return self.run.variants

    @property
    def best(self) -> Variant | None:
        """The recommended variant; None if there is none, and :attr:`why` says the reason."""
        return self.run.variant(self.run.recommended)

    @property
    def why(self) -> str:
        """The reason for the recommendation, or why there is none."""
        return self.run.why

    @property
    def warnings(self) -> list[str]:
        """What may be wrong, one sentence each."""
        return self.run.warnings

    @property
    def report(self) -> Path:
        """The path of report.html."""
        return self.folder / REPORT

    def variant(self, name: str | None = None) -> Variant:
        """A variant.

        Args:
            name: the name of a variant, such as ``int8-vulkan``, or a precision, which means its CPU variant. By
                default the recommended variant.

        Raises:
            RecipeError: there is no such variant, or none is recommended.
        """
        return find_variant(self.run, name, self.folder)

    def model(self, name: str | None = None) -> Artifact:
        """The model of a variant, for :class:`ncnnkit.Session` and others.

        Args:
            name: as for :meth:`variant`.

        Raises:
            RecipeError: as for :meth:`variant`.
            ModelError: the variant has no model.
            StorageError: a later run has replaced this one in its folder.
        """
        self._check_folder()
        return artifact_of(self.run, choose(self.run, name, self.folder), self.folder)

    def layers(self, name: str | None = None) -> list[LayerResult]:
        """The layers of a variant in the network's order. ``pandas.DataFrame`` accepts the list.

        Errors and times are those of the first device.

        Args:
            name: as for :meth:`variant`.

        Raises:
            RecipeError: as for :meth:`variant`.

        Example:
            >>> layers = [layer for layer in nk.open_run("out").layers("int8") if layer.precision == "int8"]
            >>> min(layers, key=lambda layer: layer.sqnr_db).type
            'Convolution'
        """
        from .report.layers import layer_table

        variant, table = self.variant(name), layer_table(self.run)
        if table is None:
            return []
        column = table.precisions.index(variant.precision) if variant.precision in table.precisions else None
        known = {layer.name: layer for layer in self.run.network}
        found = []
        for row in table.rows:
            layer, cell = known.get(row.name), None if column is None else row.cells[column]
            precision = {"mixed": row.choice, "int8": "int8" if layer and layer.int8 else ""}
            found.append(
                LayerResult(
                    row.name, row.type, row.shape, layer.parameters if layer else 0,
                    precision.get(variant.precision, variant.precision),
                    cell.ms if cell else None, cell.alone if cell else None, cell.sqnr_db if cell else None,
                    row.why if variant.precision == "mixed" else "",
                )
            )  # fmt: skip
        return found

    def app(self, path: str | Path, *, variant: str | None = None, lang: str = "cpp", embed: bool = False) -> Path:
        """Write a program that runs a variant; see :func:`ncnnkit.make_app`.

        Args:
            path: the folder of the program. It is new or empty.
            variant: as ``name`` in :meth:`variant`.
            lang: ``cpp`` or ``python``.
            embed: whether the model becomes part of the program, which then reads no model files; ``cpp`` only.

        Returns:
            ``path``.

        Raises:
            RecipeError, ModelError: as for :meth:`model`, or an unknown language.
            StorageError: ``path`` holds something else, or a later run has replaced this one in its folder.

        Example:
            >>> (nk.open_run("out").app("myapp", lang="python") / "models").is_dir()
            True
        """
        from .app import make_app

        self._check_folder()
        make_app(self.folder, path, variant=variant, lang=lang, embed=embed)
        return Path(path)

    def to_pandas(self) -> pandas.DataFrame:
        """A row for each variant, indexed by its name.

        Returns:
            Columns: engine, precision, backend, device, status, recommended, latency_ms (median), p90_ms, speed_up
            (over ncnn's fp32 on the CPU), load_ms, size_mb (10⁶ bytes), memory_mb, mse, sqnr_db, cosine, max_error,
            and the figures of the task. A share is 0 to 1. What was not measured is NaN.

        Raises:
            ToolError: pandas is not installed.

        Example:
            >>> table = nk.open_run("out").to_pandas()
            >>> list(table.index), table["latency_ms"].dtype
            (['fp32-cpu', 'int8-cpu'], dtype('float64'))
        """
        try:
            import pandas
        except ImportError:
            raise ToolError("pandas is not installed", hint="pip install pandas") from None
        names = [variant.name for variant in self.variants]
        return pandas.DataFrame(map(self._row, self.variants), index=pandas.Index(names, name="variant"))

    def _row(self, variant: Variant) -> dict[str, Any]:
        latency, accuracy = variant.latency_ms, variant.accuracy
        exact = accuracy is not None and accuracy.mse == 0
        return {
            "engine": variant.engine,
            "precision": variant.precision,
            "backend": variant.backend,
            "device": variant.device,
            "status": variant.status,
            "recommended": variant.name == self.run.recommended,
            "latency_ms": latency.median if latency else math.nan,
            "p90_ms": latency.p90 if latency else math.nan,
            "speed_up": _number(speed_up(self.variants, variant)),
            "load_ms": variant.load_ms.cold if variant.load_ms else math.nan,
            "size_mb": math.nan if variant.size_bytes is None else variant.size_bytes / 1e6,
            "memory_mb": _number(variant.peak_memory_mb),
            "mse": accuracy.mse if accuracy else math.nan,
            "sqnr_db": math.inf if exact else _number(accuracy.sqnr_db if accuracy else None),
            "cosine": _number(accuracy.cosine if accuracy else None),
            "max_error": accuracy.max_error if accuracy else math.nan,
            **{each.name: _number(_value(variant, each.name)) for each in task_figures(self.variants)},
        }

    def __repr__(self) -> str:
        return f"Result({str(self.folder)!r}: {len(self.variants)} variants, recommended {self.run.recommended})"

    def __str__(self) -> str:
        from .printing import PlainConsole
        from .report import console_table, headline

        console = PlainConsole(width=120, color_system=None, force_jupyter=False)
        with console.capture() as shown:
            console.print(console_table(self.variants, self.run.recommended, console.width))
        lines = [line.rstrip() for line in shown.get().splitlines()]
        return "\n".join([*lines, *map(printable, (headline(self.run), f"report: {self.report}"))])

    def _repr_html_(self) -> str:
        from .report import headline

        figures = task_figures(self.variants)
        titles = ["variant", "status", "ms", "speed", "MB", "dB", "cosine", *(with_unit(f.name, f) for f in figures)]
        rows = [
            _html_row(_cells(self.variants, variant, [f.name for f in figures]), variant.name == self.run.recommended)
            for variant in self.variants
        ]
        head = "".join(f"<th>{escape(title)}</th>" for title in titles)
        return (
            f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
            f"<p>{escape(printable(headline(self.run)))}</p>"
        )

    def _check_folder(self) -> None:
        """Raise StorageError if the folder now holds another run, because its models are not those of this result."""
        if load_run(self.folder) != self.run:
            hint = "open it with open_run, and give each run an out of its own"
            raise StorageError("a later run has replaced this one", where=str(self.folder), hint=hint)


def open_run(folder: str | Path) -> Result:
    """Open the result of an earlier run.

    Args:
        folder: the run folder, or its run.json.

    Returns:
        The result, with the same contents as the one that :func:`ncnnkit.run` returned.

    Raises:
        FormatError: there is no run in the folder, or its run.json is not valid.

    Example:
        >>> nk.open_run("out").variant("int8").accuracy.cosine > 0.9
        True
    """
    folder = Path(folder)
    return Result(load_run(folder), folder if folder.is_dir() else folder.parent)


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _value(variant: Variant, figure: str) -> float | None:
    found = variant.accuracy.figure(figure) if variant.accuracy else None
    return found.value if found else None


def _cells(variants: list[Variant], variant: Variant, figures: Iterable[str]) -> list[str]:
    """The cells of a variant in a notebook's table."""
    accuracy, times = variant.accuracy, speed_up(variants, variant)
    return [
        variant.name,
        variant.status,
        plain(variant.latency_ms.median if variant.latency_ms else None),
        NOTHING if times is None else f"{times:.2f}×",
        megabytes(variant.size_bytes),
        decibel(accuracy.sqnr_db) if accuracy else NOTHING,
        cosine(accuracy.cosine if accuracy else None, 5),
        *(figure_text(accuracy.figure(name)) if accuracy else NOTHING for name in figures),
    ]


def _html_row(cells: list[str], best: bool) -> str:
    """A table row, in bold for the recommended variant. There are no colours, so that it also suits a dark theme."""
    texts = [escape(printable(cell)) for cell in cells]
    texts = [f"<b>{text}</b>" for text in texts] if best else texts
    return f"<tr>{''.join(f'<td>{text}</td>' for text in texts)}</tr>"
