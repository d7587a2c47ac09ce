"""Commands for programs that run a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import VerificationError
from .commands import command
from .options import Json, Quiet, option
from .progress import shown_progress
from .terminal import out, say_how
from .values import listed

group = typer.Typer()


@command(
    group, "app",
    "ncnnkit app out/ -o myapp/",
    "ncnnkit app out/ --variant int8 --lang python -o myapp/",
    "ncnnkit app model.param --images examples/ --with streams --with camera -o myapp/",
)  # fmt: skip
def make_app(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A run folder, its run.json, or a .param with its card.")
    ],
    output: Annotated[Path, option("Output", "FOLDER", "The folder to write.", "-o", "--out")],
    variant: Annotated[
        str | None,
        option(
            "Model",
            "NAME",
            "For a run: a variant, such as int8-vulkan, or a precision on the CPU. Default: the recommended one.",
            "--variant",
        ),
    ] = None,
    lang: Annotated[str, option("Output", "NAME", "Language: cpp or python.", "--lang")] = "cpp",
    embed: Annotated[bool, option("Output", "", "Make the model part of the program.", "--embed")] = False,
    images: Annotated[
        Path | None,
        option("Images", "PATH", "For a .param: images for the self-test. A run has its own examples.", "--images"),
    ] = None,
    extras: Annotated[
        list[str] | None, option("Output", "NAME", "Optional parts: streams, camera, gpu, arrays.", "--with")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write a program that runs a model: a project in C++, or in Python."""
    from ..app import make_app as write_app

    with shown_progress(quiet) as progress:
        progress("write the program", 0, 0)
        chosen = write_app(
            model, output, variant=variant, lang=lang, embed=embed, images=images, extras=listed(extras) or ()
        )
    out.print(f"{output}: {chosen.name}; see its README.md", soft_wrap=True)
    say_how(chosen.model)


@command(
    group, "verify",
    "ncnnkit verify myapp/",
    "ncnnkit verify myapp/ --on rock5b -- --threads=4",
)  # fmt: skip
def verify_app(
    app_folder: Annotated[Path, typer.Argument(metavar="APP", help="The folder of an app.")],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="APP-OPTIONS", help="After --: options of the program, such as --gpu or --threads=2."),
    ] = None,
    device: Annotated[
        str,
        option(
            "Measuring",
            "DEVICE",
            "Device: local, ssh://user@board, adb://serial or a name from `ncnnkit devices`.",
            "--on",
        ),
    ] = "local",
    infer: Annotated[
        Path | None,
        option(
            "Model",
            "FILE",
            "For C++: a program built for that device. Default: build it on the device, or use the one in build/.",
            "--infer",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the self-test of an app on a device, and write receipt.json: figures, bounds, versions and hashes."""
    from ..app.verify import RECEIPT, check_options
    from ..app.verify import verify_app as verify

    with shown_progress(quiet or as_json) as progress:
        receipt = verify(app_folder, device, program=infer, options=check_options(options or []), progress=progress)
    if as_json:
        print((app_folder / RECEIPT).read_text(encoding="utf-8"), end="")
    elif receipt.test:
        test = receipt.test
        where = test.device or receipt.cpu or receipt.system
        out.print(f"{test.model}, {test.precision}, on {receipt.on}: {where}", soft_wrap=True)
        for figure in test.figures:
            value = "not a number" if figure.value is None else f"{figure.value:.4g} {figure.unit}".rstrip()
            verdict = "pass" if figure.passed else "FAIL"
            out.print(f"{figure.name:28}{value:>14}, at least {figure.bound:.4g}: {verdict}")
        out.print(f"latency {test.latency_ms['median']:.4g} ms, load {test.load_ms:.4g} ms")
    if not receipt.passed:
        raise VerificationError(receipt.why, where=str(app_folder), hint=f"see {RECEIPT}")
