#!/usr/bin/env python3
"""Run the model on one input, or on many, and print the answer.

    infer.py [MODEL.param MODEL.bin] INPUT [OUTPUT] [options]
    infer.py [MODEL.param MODEL.bin] NAME=FILE NAME=FILE [OUTPUT] [options]     a model with several inputs
    infer.py [MODEL.param MODEL.bin] --self-test [options]

INPUT   an image; an array in a .npy, or as text in a .txt or .csv; a .npz with an array for each input; a folder of
        these; or - for PPM images on stdin
OUTPUT  a .npy or text file for the network's outputs, one file for each output; or, if the network makes an image or a
        mask, a .png, .jpg, .ppm or .pgm

Without a model, the program runs the one in models/ beside it. It needs Python 3.9 or newer, ncnn and numpy. It reads
PPM and PGM images itself; other formats, and writing images, need Pillow. The facts about the model are in infer.json.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, NoReturn, Optional

import numpy as np

from ncnnkit.app.python_parts.images import in_color
from ncnnkit.app.python_parts.inputs import Input, each_input, named_files, read_inputs
from ncnnkit.app.python_parts.network import Model, Network, Settings, in_words, open_model
from ncnnkit.app.python_parts.selftest import self_test
from ncnnkit.app.python_tasks.classification import describe, draw, lines, makes, picture
from ncnnkit.app.python_tasks.common import Failure
from ncnnkit.errors import NcnnkitError, printable
from ncnnkit.onboard.picture import Array

# ------------------------------------------------------------------------------------------------------- command line

PICTURES = (".png", ".jpg", ".jpeg", ".ppm", ".pgm")


class UsageError(Exception):
    """A wrong command line: it ends the program with one line on stderr and exit status 2."""


class Parser(argparse.ArgumentParser):
    """A parser that raises :class:`UsageError` instead of ending the program."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def whole(text: str) -> int:
    """An option's value as an integer from 0 to 1000000."""
    if not (text.isascii() and text.isdigit() and int(text) <= 1000000):
        raise argparse.ArgumentTypeError("must be an integer from 0 to 1000000, not %r" % text)
    return int(text)


def positive(text: str) -> int:
    """An option's value as an integer from 1 to 1000000."""
    if whole(text) == 0:
        raise argparse.ArgumentTypeError("must be an integer above zero")
    return int(text)


def is_picture(path: Optional[Path]) -> bool:
    """Whether a path has the suffix of an image file that Pillow writes."""
    return path is not None and path.suffix.lower() in PICTURES


def drawable(text: str) -> Path:
    """An option's value as the path of an image file."""
    if not is_picture(Path(text)):
        raise argparse.ArgumentTypeError("must end in .png, .jpg or .ppm, not %r" % text)
    return Path(text)


def parse(arguments: List[str]) -> argparse.Namespace:
    """Parse the command line. Raises UsageError."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                    usage=argparse.SUPPRESS, allow_abbrev=False)  # fmt: skip
    parser.add_argument("words", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--cpu", dest="gpu", action="store_const", const="", help="run on the CPU (default)")
    parser.add_argument("--gpu", action="store_const", const="real", default="", help="run on a GPU by Vulkan, or fail")
    parser.add_argument("--gpu=any", dest="gpu", action="store_const", const="any",
                        help="like --gpu, but a software device is accepted, too")  # fmt: skip
    parser.add_argument("--precision", help="a precision in models/variants.txt; default: the model's")
    parser.add_argument("--threads", type=positive, default=0, help="default: the number of the cluster's cores")
    parser.add_argument("--cluster", choices=("big", "little", "all"), default="big")
    parser.add_argument("--loop", type=positive, default=10, help="timed inferences, after a first one")
    parser.add_argument("--top", type=whole, default=5, help="the number of best classes to print")
    parser.add_argument("--tile", type=whole, help="only this tile of the image, if it is cut into tiles")
    parser.add_argument("--draw", type=drawable, help="draw the answer onto the image: .png, .jpg or .ppm")
    parser.add_argument("--self-test", action="store_true", help="run the examples instead of INPUT, and compare the "
                        "answers with the original's: exit status 0, or 3 if they differ")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--no-check", action="store_true", help="run model files even if checksums.txt does not match")
    args = parser.parse_intermixed_args(arguments)
    words: List[str] = args.words
    args.files = []
    if words and words[0].endswith(".param"):
        if len(words) < 2 or not words[1].endswith(".bin"):
            raise UsageError("give MODEL.bin after MODEL.param; see --help")
        args.files, args.words = [Path(word) for word in words[:2]], words[2:]
    if bool(args.words) == args.self_test:
        raise UsageError("give INPUT, or --self-test without INPUT; see --help")
    return args


def choose_settings(args: argparse.Namespace, model: Model) -> Settings:
    """How to run a model, from the command line and the model's own precision. Raises UsageError."""
    known = model.facts["precisions"]
    precision = args.precision or model.precision
    if precision not in known:
        raise UsageError("--precision=%s: must be one of %s" % (precision, ", ".join(known)))
    made_for = {row[1] for row in model.variants if row[3] == model.param.stem}
    if made_for and precision not in made_for:
        raise UsageError("--precision=%s: %s is made for another precision" % (precision, model.param))
    return Settings(precision, args.gpu, args.threads, args.cluster)


# ------------------------------------------------------------------------------------------------------------ answers


def answer_one(args: argparse.Namespace, model: Model, settings: Settings) -> None:
    """Run one input, and print, write and draw the answer."""
    given, rest = named_files(args.words, model.facts)
    if len(rest) > 1:
        raise UsageError("%s: unexpected argument: give INPUT and OUTPUT; see --help" % rest[1])
    output = Path(rest[0]) if rest else None
    if is_picture(output) and not makes(model.facts):
        raise Failure("%s: this model makes no image: give a .npy or .txt, or --draw=%s" % (output, output))
    start = time.perf_counter()
    made = read_inputs(given, model.facts, args.tile)  # before the model is loaded, so that errors show at once
    input_ms = (time.perf_counter() - start) * 1000
    if args.draw and made.pixels is None:
        raise UsageError("--draw needs an image, and INPUT is an array")
    network = Network(model, settings)
    samples, outputs = network.timed(made, args.loop)
    found = network.predict(made)
    save(found, made, outputs, output, args.draw, model)
    report = network.about(input_ms, samples)
    if args.json:
        report.update(describe(found, model.labels, args.top))
        if makes(model.facts):
            report[makes(model.facts)] = str(output) if is_picture(output) else None
        say(json.dumps(report))
        return
    for line in in_words(report):
        say(line)
    for line in lines(found, model.labels, args.top):
        say(line)


def answer_all(args: argparse.Namespace, model: Model, settings: Settings) -> int:
    """Run the files of a folder, or the images on stdin, and print a line for each. Returns the exit status."""
    if len(args.words) > 1 or args.draw:
        raise UsageError("OUTPUT and --draw are for one input")
    if len(model.facts["inputs"]) > 1:
        raise UsageError("a folder or stdin is for a model with one input")
    network, status = Network(model, settings), 0
    for note in network.notes:
        say("infer: note: " + note, file=sys.stderr)
    for name, read in each_input(args.words[0], model.facts, args.tile):
        said: Dict[str, Any] = {"input": name}
        try:
            found = network.predict(read())
            said.update(describe(found, model.labels, args.top))
            text = "\t".join([name, *lines(found, model.labels, args.top)])
        except Failure as failure:
            status, text = 1, ""
            said["error"] = str(failure)
            say("infer: %s" % failure, file=sys.stderr)
        if args.json or text:
            say(json.dumps(said) if args.json else text, flush=True)
    return status


def say(text: Any, **where: Any) -> None:
    """Print a line. Names of files and classes may hold codes that control a terminal."""
    print(printable(str(text)), **where)


def save(
    found: Any, given: Input, outputs: List[Array], output: Optional[Path], drawn: Optional[Path], model: Model
) -> None:
    """Write OUTPUT and --draw."""
    if output is not None and is_picture(output):
        as_image(picture(found)).save(output)
    elif output is not None:
        for row, values in zip(model.facts["outputs"], outputs):
            named = output.with_name("%s-%s%s" % (output.stem, row["file"], output.suffix))
            write_output(named if len(outputs) > 1 else output, values)
    if drawn is not None:
        image = as_image(in_color(given.pixels, 3))
        draw(found, model.labels, image)
        image.save(drawn)


def write_output(path: Path, values: Array) -> None:
    """Write an output as .npy, or as text with one number per line."""
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        np.savetxt(path, values.reshape(-1), "%.9g")


def as_image(pixels: Array) -> Any:
    """Pixels as a Pillow image. Raises Failure if Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError:
        raise Failure("writing images needs Pillow (pip install Pillow)") from None
    return Image.fromarray(pixels)


def run(arguments: List[str]) -> int:
    """Do what the command line says. Returns the exit status."""
    args = parse(arguments)
    model = open_model(Path(__file__).resolve().parent, args.files, not args.no_check)
    settings = choose_settings(args, model)
    if args.self_test:
        return self_test(model, settings, args.loop, args.json)
    if args.words[0] == "-" or Path(args.words[0]).is_dir():
        return answer_all(args, model, settings)
    answer_one(args, model, settings)
    return 0


def main() -> int:
    """Run the program. Errors are printed as one line. Returns the exit status."""
    try:
        return run(sys.argv[1:])
    except UsageError as error:
        say("infer: %s" % error, file=sys.stderr)
        return 2
    except (Failure, NcnnkitError) as failure:
        say("infer: %s" % failure, file=sys.stderr)
        return 1
    except OSError as error:
        say("infer: %s" % ("%s: %s" % (error.filename, error.strerror) if error.filename else error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
