"""Conversion of an original to ncnn's graph. Routes are tried in order; each network is compared with the original."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..artifact import Artifact
from ..errors import ConvertError, ModelError, NcnnkitError, StorageError, VerificationError
from ..model.graph import Graph, Layer, Names
from ..model.whole import guard_whole_inputs
from ..model.work import Budget
from ..onboard.scratch import Scratch
from ..passes import optimize
from ..progress import StepProgress, silent_steps
from ..recipe import AUTO
from ..record.conversion import Attempt, ConversionCheck, DecodedCheck, OwnQuantisation, ShapeCheck
from ..record.environment import installed
from ..record.folder import LOG
from ..record.quantisation import losses
from ..samples.images import ImageSet
from ..samples.items import InputSpec, times
from ..samples.stream import ArraySamples, Samples
from ..tasks import Agreement
from ..tasks.table import named_task, spelled
from . import ModelSource, open_model
from .bisection import said_of_first_wrong
from .dynamic import merge, probe_shapes
from .model import example_arrays, say
from .normalisation import fold_normalisation
from .opening import GUESS, choose_preprocess
from .reference import EXACT_SQNR_DB, LEAST_SQNR_DB, Compared, Expected
from .routes import Route, routes_for

CHECKED_SAMPLES = 4
"""The number of samples on which a converted network is compared with the original."""

WRONG = "export the model in another way, or try another --route"


@dataclass(frozen=True)
class RouteResult:
    """A route that was tried.

    Attributes:
        route: its name.
        graph: fp32, not optimised; None if the route failed.
        layers: the number of layers of the optimised network.
        compared: the errors of the network against the original; None if there was nothing to compare.
        at_others: the same for each of the original's further input shapes.
        fault: why the route failed.
        seconds: the duration, including the comparison.
    """

    route: str
    seconds: float
    graph: Graph | None = None
    layers: int | None = None
    compared: Compared | None = None
    at_others: tuple[tuple[ModelSource, Compared], ...] = ()
    fault: NcnnkitError | None = None

    @property
    def sqnr_db(self) -> float:
        """The SQNR in dB of the worst output at any shape. Infinite if all are exact, or if nothing was compared."""
        found = [self.compared, *(compared for _, compared in self.at_others)]
        return min((compared.sqnr_db for compared in found if compared is not None), default=math.inf)

    @property
    def exact(self) -> bool:
        """Whether the network equals the original up to fp32 rounding, so that no other route can be better."""
        return self.graph is not None and self.sqnr_db >= EXACT_SQNR_DB

    def record(self, taken: RouteResult) -> Attempt:
        """The route as run.json holds it.

        Args:
            taken: the route that was chosen.
        """
        wrong = self.compared is not None and self.sqnr_db < LEAST_SQNR_DB
        return Attempt(
            route=self.route,
            outcome="taken" if self is taken else "failed" if self.graph is None else "wrong" if wrong else "passed",
            reason=self.reason,
            sqnr_db=self.compared.errors.sqnr_db if self.compared else None,
            layers=self.layers,
            seconds=round(self.seconds, 3),
        )

    @property
    def reason(self) -> str:
        """Why the route failed or its network is wrong; empty if neither."""
        if self.fault is not None:
            return self.fault.what
        said = [self.compared.shortfall if self.compared else ""]
        for other, compared in self.at_others:
            short = compared.shortfall
            said.append(f"for inputs of {said_of_shapes(other)} {short}" if short else "")
        return next(filter(None, said), "")


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    Attributes:
        taken: the route that was chosen.
        results: all routes that were tried, in order.
        logged: whether pnnx ran and left its log in the folder.
        own: facts about the original's own quantisation; None if the original is in floating point.
        decoded: how well the predictions of the network and of the original agree; None if there are none to compare.
        decoder: the kind of the decoder of both.
    """

    taken: RouteResult
    results: Sequence[RouteResult]
    logged: bool
    own: OwnQuantisation | None = None
    decoded: Agreement | None = None
    decoder: str = ""

    @property
    def graph(self) -> Graph:
        """The network in fp32, not optimised. Its inputs have the original's shapes."""
        assert self.taken.graph is not None
        return self.taken.graph

    def record(self) -> ConversionCheck:
        """The conversion as run.json holds it."""
        compared = self.taken.compared
        errors = compared.errors if compared and not compared.blind else None
        return ConversionCheck(
            route=self.taken.route,
            verified=errors is not None,
            sqnr_db=errors.sqnr_db if errors else None,
            cosine=errors.cosine if errors else None,
            max_error=errors.max_error if errors else None,
            original_sqnr_db=compared.original_sqnr_db if compared else None,
            shapes=[_at_shapes(other, beside) for other, beside in self.taken.at_others],
            seconds=round(sum(result.seconds for result in self.results), 3),
            attempts=[result.record(self.taken) for result in self.results],
            pnnx_version=installed("pnnx") if self.logged else None,
            log=LOG if self.logged else None,
            own=self.own,
            decoded=self._decoded(),
        )

    def _decoded(self) -> DecodedCheck | None:
        found = self.decoded
        if found is None:
            return None
        return DecodedCheck(
            decoder=self.decoder,
            original=found.theirs,
            network=found.ours,
            matched=found.matched,
            iou=found.iou,
            score_error=found.score_error,
        )


def _at_shapes(other: ModelSource, beside: Compared) -> ShapeCheck:
    return ShapeCheck(
        shapes=other.shapes,
        sqnr_db=beside.errors.sqnr_db,
        cosine=beside.errors.cosine,
        max_error=beside.errors.max_error,
        original_sqnr_db=beside.original_sqnr_db,
    )


def convert(
    model: str | Path | Any,
    *,
    shapes: Sequence[tuple[int, ...]] = (),
    shape_too: Sequence[tuple[int, ...]] = (),
    weights: str = "default",
    outputs: Sequence[str] = (),
    fix: Mapping[str, float] | None = None,
    preset: str = "",
    preprocess: Mapping[str, Any] | None = None,
    route: str = AUTO,
    force: bool = False,
    task: str = "",
    tell: Callable[[str], None] = lambda sentence: None,
) -> Artifact:
    """Convert a model to ncnn, fp32, without optimisation, and compare it with the original on a sample of noise.

    Args:
        model: a reference, as :func:`ncnnkit.source.open_model` takes it, or a ``torch.nn.Module``.
        shapes: shapes of the inputs without the batch axis, such as ``[(3, 224, 224)]``; only if the model does not fix
            them.
        shape_too: further input shapes that the network must accept: one for each input, in order, then the next set.
            The network is compared with the original at each of them.
        weights: ``default``, ``none`` (random) or a file; only for models built by code.
        outputs: names of tensors of an ONNX file that become the outputs. By default its own outputs, or the last
            tensors that ncnn can compute.
        fix: name of an input of an ONNX file -> its constant value, such as ``{"sr": 16000}``. The network then has no
            such input, and branches that depend on it are resolved.
        preset: name of the preprocessing; see :func:`ncnnkit.preset`. By default that of the model.
        preprocess: fields of :class:`ncnnkit.Preprocess` that replace those of the preset or the model.
        route: the only route to try; see :mod:`ncnnkit.source.routes`. By default all are tried until one is exact.
        force: accept a network that differs from the original.
        task: what the network is for, as in a recipe; the card stores it. By default the decoder is guessed.
        tell: called with a sentence for each difference between the network and the model's file: where it was cut,
            how its inputs changed, and a normalisation that became part of the preprocessing.

    Returns:
        The model in memory. It includes the preprocessing, if the model or the caller gives it, and the class names,
        if the model has them. :func:`ncnnkit.save` writes both into its card.

    Raises:
        ModelError: the model, its weights or its shapes cannot be used.
        RecipeError: an unknown preset or route, or a field that cannot be used.
        ConvertError: no route leads to a network that ncnn can run.
        VerificationError: ncnn computes something other than the original.

    Example:
        >>> nk.convert("model.onnx").inputs
        (Tensor(name='in0', shape=(3, 224, 224)),)

        A network of your own:

        >>> model = nk.convert(torch.nn.Conv2d(3, 8, 3), shapes=[(3, 32, 32)])
        >>> nk.save(model, "conv.param")
    """
    source = open_model(
        model, shapes=shapes, shape_too=shape_too, weights=weights, outputs=outputs, fix=fix, task=task
    )  # fmt: skip
    return convert_opened(
        source, preset=preset, preprocess=preprocess, route=route, force=force, task=task, tell=tell
    )[0]  # fmt: skip


def convert_opened(
    source: ModelSource,
    *,
    preset: str = "",
    preprocess: Mapping[str, Any] | None = None,
    route: str = AUTO,
    force: bool = False,
    task: str = "",
    tell: Callable[[str], None] = lambda sentence: None,
    progress: StepProgress = silent_steps,
) -> tuple[Artifact, ConversionCheck]:
    """Do the work of :func:`convert` for an opened model. Also return the record of the routes and of the accuracy.

    Args:
        progress: called with the name of each route before it is tried.
    """
    found, origin = choose_preprocess(source, preset, preprocess or {})
    given = None if origin == GUESS else found
    noise = noise_for(source)
    with Scratch() as folder:
        done = convert_source(source, noise, Path(folder), route=route, force=force, progress=progress)
    fed = fold_normalisation(done.graph, given, origin)
    for change in (*source.changes, *fed.changes):
        tell(change)
    facts: dict[str, Any] = {
        "preprocess": fed.preprocess,
        "labels": source.labels or (),
        "decoder": source.decoder,
        "task": spelled(named_task(task, source.decoder)) if task else "",
        "ncnn": installed("ncnn"),
        "fed": source.input_names,
    }
    start = Artifact.load(source.file) if source.kind == "ncnn" else Artifact.made(done.graph, "fp32")
    return start.having(fed.graph, **facts), done.record()


def noise_for(source: ModelSource) -> ArraySamples:
    """A sample of noise."""
    return ArraySamples(tuple(array[None] for array in example_arrays(source.inputs)))


def _samples_at(other: ModelSource, few: Samples) -> Samples:
    """The samples for another input shape: images are resized to it; other samples are replaced by noise."""
    resized = few.resized(other.inputs) if isinstance(few, ImageSet) else None
    return resized or noise_for(other)


def convert_source(
    source: ModelSource,
    samples: Samples,
    folder: Path,
    *,
    route: str = AUTO,
    thorough: bool = False,
    force: bool = False,
    threads: int | None = None,
    gmac: float = math.inf,
    progress: StepProgress = silent_steps,
) -> Conversion:
    """Convert an opened model to ncnn's graph by the best of its routes.

    The first route whose network equals the original up to fp32 rounding (:data:`EXACT_SQNR_DB`) is taken. If there is
    none, the most exact network is taken, if its SQNR is at least :data:`LEAST_SQNR_DB`.

    Args:
        samples: the first few are run through the original and through each network. For the original's further input
            shapes, images are resized; other samples are replaced by noise.
        folder: the routes write their files and pnnx's log here.
        route: the only one to try, or ``auto``.
        thorough: try all routes, and take the network with the fewest layers among those that are exact.
        force: accept a network that differs from the original.
        threads: of ncnn; by default all cores.
        gmac: the work that the comparison may take, in 10⁹ multiply-adds. A heavy network is compared on fewer samples.
        progress: called with the name of each route before it is tried.

    Raises:
        ModelError: the original fails.
        RecipeError: the model has no such route.
        ConvertError: every route failed. The error names each reason.
        VerificationError: a route gave a network, but no network has the outputs of the original.
        StorageError: ``folder`` cannot be written.
    """
    routes = routes_for(source.kind, route)
    few = samples.subset(range(min(CHECKED_SAMPLES, len(samples))))
    checked = [(source, few), *((other, _samples_at(other, few)) for other in source.others)]
    if source.run is None:
        checked = []
    expected = [(each, Expected(each, inputs)) for each, inputs in checked]

    def compare(graph: Graph) -> list[Compared]:
        if not expected:
            return []
        # At each shape: the network, the original, and two more runs of the original if the two differ.
        runs = 4 * len(expected)
        most = Budget.of(gmac, graph, source.shapes).take("samples of the check", CHECKED_SAMPLES, runs=runs)
        return [original.compare(at_shapes(graph, each), threads, most) for each, original in expected]

    results: list[RouteResult] = []
    for done, (name, function) in enumerate(routes.items()):
        progress(name, done, len(routes))
        results.append(_try(name, function, source, folder, compare))
        if results[-1].exact and not thorough:
            break
    taken = _choose(results, force)
    if taken is None:
        raise _no_route(source, results, few)
    assert taken.graph is not None
    original = expected[0][1] if expected else None
    decoded = original.predictions(taken.graph, threads) if original else None
    kind = source.decoder.kind if source.decoder else ""
    own = _own_quantisation(source, taken.graph, original) if source.quantised else None
    return Conversion(taken, results, (folder / LOG).is_file(), own, decoded, kind)


NO_SCALES = "this route does not keep the scales"


def _own_quantisation(source: ModelSource, graph: Graph, original: Expected | None) -> OwnQuantisation:
    """Which scales of the original's quantisation the network keeps, and the noise of that quantisation."""
    assert source.quantised is not None
    lost = dict(source.quantised.lost)
    if not graph.scales and source.quantised.layers:
        lost[NO_SCALES] = source.quantised.layers
    noise = original.quantised_sqnr_db if original else None
    return OwnQuantisation(kept=len(graph.scales), lost=losses(lost), sqnr_db=noise)


def _try(
    name: str, route: Route, source: ModelSource, folder: Path, compare: Callable[[Graph], list[Compared]]
) -> RouteResult:
    """Convert by one route and compare. Any failure becomes the result of the route, so that the next one is tried."""
    start = time.perf_counter()
    try:
        graph = _for_every_shape(route, source, folder)
        for other in source.others:
            _check_shapes(graph, other)
        layers = len(optimize(graph).layers)
        compared = compare(graph)
    except StorageError:  # a full disk fails every route
        raise
    except NcnnkitError as error:
        return RouteResult(name, time.perf_counter() - start, fault=error)
    except Exception as error:
        hint = "this is a bug in ncnnkit: please report it with the model"
        fault = ConvertError(f"{type(error).__name__}: {say(error)}", hint=hint)
        return RouteResult(name, time.perf_counter() - start, fault=fault)
    others = tuple(zip(source.others, compared[1:]))
    return RouteResult(name, time.perf_counter() - start, graph, layers, compared[0] if compared else None, others)


def _for_every_shape(route: Route, source: ModelSource, folder: Path) -> Graph:
    """A network that works at every input shape of the original: it is converted at each shape, and merged."""
    first = _network(route, source, folder)
    if not source.others or source.kind == "ncnn":
        return first
    graphs = [first, *(_network(route, other, folder) for other in source.others)]
    shapes = [each.shapes for each in (source, *source.others)]
    probe = probe_shapes(shapes)
    if probe:
        with contextlib.suppress(NcnnkitError):
            return merge([*graphs, _network(route, source.at(probe), folder)], [*shapes, probe])
    return merge(graphs, shapes)


def _network(route: Route, source: ModelSource, folder: Path) -> Graph:
    graph = route(source, folder)
    if source.kind != "ncnn":
        _check_inputs(graph, source.inputs)
        _order_outputs(graph)
    guard_whole_inputs(graph)
    graph.set_input_shapes(source.shapes)
    _check_shapes(graph, source)
    return graph


def _check_shapes(graph: Graph, source: ModelSource) -> None:
    try:
        graph.infer_shapes(source.shapes)
    except ModelError as error:
        raise ConvertError(f"its network cannot run: {error.what}", hint=WRONG) from None


def at_shapes(graph: Graph, source: ModelSource) -> Graph:
    """The graph with the input shapes of an original in its Input layers."""
    made = graph.copy()
    made.set_input_shapes(source.shapes)
    return made


def said_of_shapes(source: ModelSource) -> str:
    """The input shapes of an original as text, such as ``3x224x224 and 1x8``."""
    return " and ".join(map(times, source.shapes))


def _choose(results: Sequence[RouteResult], force: bool) -> RouteResult | None:
    """The most exact network. Among those that count as exact, the one with the fewest layers; then the first."""
    made = [result for result in results if result.graph is not None and (force or result.sqnr_db >= LEAST_SQNR_DB)]
    return max(made, key=lambda result: (min(result.sqnr_db, EXACT_SQNR_DB), -(result.layers or 0)), default=None)


def _no_route(source: ModelSource, results: Sequence[RouteResult], samples: Samples) -> NcnnkitError:
    """The error if every route failed: the reason of each, and its first wrong layer if it made a network."""
    differs = any(result.graph is not None or isinstance(result.fault, VerificationError) for result in results)
    kind = VerificationError if differs else ConvertError
    reasons = [
        f"route {result.route}: {result.reason}{said_of_first_wrong(source, result.graph, samples[0])}"
        for result in results
    ]
    hints = [result.fault.hint if result.fault else f"{WRONG}; --force accepts it" for result in results]
    return kind("; ".join(reasons), where=source.reference, hint="; ".join(dict.fromkeys(filter(None, hints))))


def _check_inputs(graph: Graph, inputs: Sequence[InputSpec]) -> None:
    expected = [f"in{index}" for index in range(len(inputs))]
    if graph.inputs != expected:
        raise ConvertError(f"its network has the inputs {graph.inputs}, but the model has {len(inputs)}")
    for blob, spec in zip(expected, inputs):
        if blob in graph.outputs:
            raise ConvertError(f"the model does not use its input {spec.name!r}", hint="export it without that input")


def _order_outputs(graph: Graph) -> None:
    """Put the outputs into the order of the model: out0, out1 and so on. ncnn orders them as their layers in the file.

    ncnn counts every blob that no layer reads as an output, such as the other half of a chunk. These come last.
    """

    def rank(blob: str) -> float:
        match = re.fullmatch(r"out(\d+)", blob)
        return int(match[1]) if match else math.inf

    ordered = sorted(graph.outputs, key=rank)
    if graph.outputs == ordered:
        return
    makers = {blob: layer for layer in graph.layers for blob in layer.outputs}
    names = Names(graph)
    for blob in ordered:
        # A layer may have to run early, because others read its blobs. A Split with one output costs nothing and can
        # come last.
        maker, early = makers[blob], names.new(blob, "early")
        maker.outputs = [early if name == blob else name for name in maker.outputs]
        graph.layers.append(Layer("Split", names.new(blob, "order"), [early], [blob]))
