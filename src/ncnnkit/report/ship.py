"""The files of a run to ship, the lines with which a program loads them, and the commands that test it.

The terminal and the report show this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .. import quoting
from ..formatting import megabytes
from ..model.precision import PRECISIONS
from ..record.run import Run
from ..record.variant import Variant


@dataclass(frozen=True)
class Shipping:
    """The files of a variant to ship, and how to load them.

    Attributes:
        variant: the name of the variant.
        files: the names of its files.
        sha256: file -> its SHA-256 in hexadecimal; files without a known hash are absent.
        size: the total size of the files, MB.
        options: the fields of ``ncnn::Net::opt`` that must be set before loading.
        inputs, outputs: names of the blobs of the network.
        ncnn: the version of ncnn with which it was measured.
        where: the device on which it was measured.
        folder: the run folder, as the commands name it.
        device: the device in the form that ``--on`` takes; empty for this machine.
    """

    variant: str
    files: tuple[str, str]
    sha256: dict[str, str]
    size: str
    options: dict[str, int | bool]
    inputs: Sequence[str]
    outputs: Sequence[str]
    ncnn: str
    where: str
    folder: str
    device: str

    @property
    def cpp(self) -> str:
        """C++ lines that load the model and run it once."""
        param, weights = map(quoting.cpp, self.files)
        lines = [
            f"// ncnn {self.ncnn} or newer",
            "#include <net.h>",
            "",
            "ncnn::Net net;",
            *(f"net.opt.{name} = {str(value).lower()};" for name, value in self.options.items()),
            f"if (net.load_param({param}) != 0 || net.load_model({weights}) != 0) return 1;",
            "ncnn::Extractor extractor = net.create_extractor();",
            *(f"extractor.input({quoting.cpp(name)}, {mat});" for name, mat in _numbered("input", self.inputs)),
        ]
        for name, mat in _numbered("output", self.outputs):
            lines += [f"ncnn::Mat {mat};", f"extractor.extract({quoting.cpp(name)}, {mat});"]
        return "\n".join(lines)

    @property
    def python(self) -> str:
        """Python lines that load the model and run it once."""
        param, weights = map(quoting.python, self.files)
        return "\n".join(
            [
                f"import ncnn  # {self.ncnn} or newer",
                "",
                "net = ncnn.Net()",
                *(f"net.opt.{name} = {value}" for name, value in self.options.items()),
                f"assert net.load_param({param}) == 0 and net.load_model({weights}) == 0",
                "with net.create_extractor() as extractor:",
                *(
                    f"    extractor.input({quoting.python(name)}, {mat})"
                    for name, mat in _numbered("input", self.inputs)
                ),
                *(
                    f"    _, {mat} = extractor.extract({quoting.python(name)})"
                    for name, mat in _numbered("output", self.outputs)
                ),
            ]
        )

    @property
    def commands(self) -> list[str]:
        """Commands that write a program for the model and test it on the device."""
        on = f" --on {quoting.shell(self.device)}" if self.device else ""
        return [
            f"ncnnkit app {quoting.shell(self.folder)} --variant {quoting.shell(self.variant)} -o app",
            f"ncnnkit verify app{on}",
        ]

    @property
    def loading(self) -> str:
        """The options in one line, as C++ sets them."""
        return ", ".join(f"opt.{name} = {str(value).lower()}" for name, value in self.options.items())

    def text(self) -> str:
        """The text for a terminal."""
        rows = [
            ("ship", f"{' and '.join(self.files)} ({self.size} MB)"),
            ("load with", f"{self.loading}; ncnn {self.ncnn} or newer"),
            ("program", self.commands[0]),
            ("test", self.commands[1]),
        ]
        return "\n".join(f"{head}: {said}" for head, said in rows)


def shipping(run: Run, folder: str) -> Shipping | None:
    """The files to ship of a run's recommended variant; None if nothing is recommended.

    Args:
        folder: the run folder, as commands name it.
    """
    best = run.variant(run.recommended)
    if best is None or best.files is None:
        return None
    machine = next((d.machine for d in run.devices if d.name == best.device), run.environment.machine)
    address = next((d.address for d in run.devices if d.name == best.device), "local")
    return Shipping(
        variant=best.name,
        files=(best.files.param, best.files.bin),
        sha256=best.files.sha256,
        size=megabytes(best.size_bytes),
        options=_options(best),
        inputs=[blob for layer in run.network if layer.type == "Input" for blob in layer.outputs] or ["in0"],
        outputs=[output.name for output in best.accuracy.outputs] if best.accuracy else ["out0"],
        ncnn=machine.ncnn,
        where=best.device_name,
        folder=folder,
        device="" if address == "local" else best.device,
    )


def _options(variant: Variant) -> dict[str, int | bool]:
    """All options of ncnn with which a variant was measured."""
    gpu = {"use_vulkan_compute": variant.backend == "vulkan"}
    return {"num_threads": variant.threads, **gpu, **PRECISIONS[variant.precision].options}


def _numbered(noun: str, names: Sequence[str]) -> list[tuple[str, str]]:
    """(name of a blob, name of its variable in the lines)."""
    return [(name, noun if len(names) == 1 else f"{noun}{i}") for i, name in enumerate(names)]
