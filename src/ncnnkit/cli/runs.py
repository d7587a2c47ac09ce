"""Commands that do whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..recipe import Recipe, make_recipe
from .commands import command
from .options import Json, ModelOrNone, NoCache, Quiet, RunFolderToWrite, option, takes_images, takes_recipe
from .progress import shown_stages
from .reports import print_run

group = typer.Typer()


@command(
    group, "run",
    "ncnnkit run model.onnx --images calib/ --out out/",
    "ncnnkit run torchvision:resnet50 --images calib/ --on rock5b --precision fp32,int8",
    "ncnnkit run detector.onnx --images frames/ --require 'kept>=98%' --require 'new<=2%'",
)  # fmt: skip
@takes_images
@takes_recipe
def run(
    model: ModelOrNone = None,
    recipe: Annotated[
        Path | None, option("Model", "FILE", "A recipe.toml; other options replace its values.", "--recipe")
    ] = None,
    output: RunFolderToWrite = Path("ncnnkit-out"),
    no_cache: NoCache = False,
    as_json: Json = False,
    quiet: Quiet = False,
    asked: Any = None,
    prepared: Any = None,
) -> None:
    """Convert a trained model to ncnn at every precision, measure and compare the models, and write a report."""
    _run(make_recipe({**asked, **prepared, "model": model}, recipe), output, no_cache, as_json, quiet)


@command(group, "demo", "ncnnkit demo -o demo/")
def demo(
    output: RunFolderToWrite = Path("ncnnkit-demo"),
    no_cache: NoCache = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Do a whole run with EfficientNet-Lite0 and a few photographs, which come with ncnnkit."""
    data = Path(__file__).parents[1] / "data"
    images = data / "images"
    recipe = Recipe(
        str(data / "efficientnet-lite0.onnx"),
        images=str(images / "calibration"),
        eval_images=str(images / "evaluation"),
        seconds=0.5,  # a demonstration: less timing than a run, so that it is over soon
    )
    _run(recipe, output, no_cache, as_json, quiet)


def _run(recipe: Recipe, output: Path, no_cache: bool, as_json: bool, quiet: bool) -> None:
    from ..cache.store import Store
    from ..pipeline import run as run_pipeline

    with shown_stages(quiet or as_json) as progress:
        document = run_pipeline(recipe, output, progress, store=None if no_cache else Store())
    print_run(document, output, as_json)
