"""Ten thousand damaged inputs, examples and models.

The app, built with sanitizers, answers or refuses, and never crashes.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ncnn_library import build
from networks import small
from PIL import Image

from ncnnkit.app import make_app
from ncnnkit.artifact import Artifact
from ncnnkit.samples.preprocess import Preprocess

pytestmark = [pytest.mark.app, pytest.mark.slow, pytest.mark.timeout(900)]

COUNTS = {"jpg": 2000, "png": 2000, "ppm": 2000, "npy": 2000, "txt": 500, "example": 500, "param": 1000}
"""Kind of file -> the number of damaged files."""
assert sum(COUNTS.values()) == 10_000

Mutate = Callable[[bytes, np.random.Generator], bytes]


def flipped(data: bytes, random: np.random.Generator) -> bytes:
    """Change a few bytes."""
    changed = np.frombuffer(data, np.uint8).copy()
    places = random.integers(0, len(changed), random.integers(1, 9))
    changed[places] = random.integers(0, 256, len(places))
    return changed.tobytes()


def cut(data: bytes, random: np.random.Generator) -> bytes:
    """Cut off the end."""
    return data[: random.integers(1, len(data))]


def repeated(data: bytes, random: np.random.Generator) -> bytes:
    """Repeat or remove a part."""
    begin, end = sorted(random.integers(0, len(data) + 1, 2).tolist())
    return data[:end] + data[begin:] if random.integers(2) else data[:begin] + data[end:]


def numbered(data: bytes, random: np.random.Generator) -> bytes:
    """Replace a number in a text by a large one, a negative one, or nothing."""
    places = [i for i, byte in enumerate(data[:4000]) if chr(byte).isdigit()]
    if not places:
        return flipped(data, random)
    at = places[random.integers(len(places))]
    words = (b"0", b"-1", b"999999999", b"2147483648", b"1e30", b"nan", b"x", b"")
    return data[:at] + words[random.integers(len(words))] + data[at + 1 :]


MUTATIONS: tuple[Mutate, ...] = (flipped, cut, repeated, numbered)


def mutant(data: bytes, random: np.random.Generator) -> bytes:
    return MUTATIONS[random.integers(len(MUTATIONS))](data, random) or b"\0"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The app of a small network, with AddressSanitizer and UBSan, and a program of many inputs: fuzz.cpp."""
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "images").mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (2, 20, 24, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"images/{i}.png")
    how = Preprocess(resize=(16, 16), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    model = replace(Artifact.of(small()), preprocess=how, task="classification")
    make_app(model, folder / "app", images=folder / "images", extras=("arrays",))
    cmake = folder / "app/CMakeLists.txt"
    source = Path(__file__).parent / "app/fuzz.cpp"
    cmake.write_text(f"{cmake.read_text()}\nadd_executable(fuzz {source})\ntarget_link_libraries(fuzz PRIVATE infer)\n")
    flags = "-g -O1 -Wall -Wextra -Werror -fsanitize=address,undefined -fno-sanitize-recover=all"
    build(folder / "app", folder / "build", "-DCMAKE_BUILD_TYPE=", f"-DCMAKE_CXX_FLAGS={flags}")
    return folder


def seeds(folder: Path, kind: str) -> list[bytes]:
    """Valid files of a kind."""
    values = np.random.default_rng(1).random((3, 16, 16), np.float32)
    with Image.open(folder / "images/0.png") as image:
        image.load()
    path = folder / f"seed.{kind}"
    if kind == "jpg":
        found = []
        for mode, progressive in (("RGB", False), ("RGB", True), ("L", False), ("CMYK", False)):
            image.convert(mode).save(path, progressive=progressive)
            found.append(path.read_bytes())
        return found
    if kind == "png":
        found = []
        for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16"):
            (image.convert("L").convert("I").convert(mode) if mode == "I;16" else image.convert(mode)).save(path)
            found.append(path.read_bytes())
        return found
    if kind == "ppm":
        return [b"P6 # text\n24 20\n255\n" + image.tobytes(), b"P5 24 20 255\n" + image.convert("L").tobytes()]
    if kind == "npy":
        found = []
        for dtype in ("<f4", "<f8", "<f2", "|u1", "<i8"):
            np.save(path, values.astype(dtype))
            found.append(path.read_bytes())
        return found
    if kind == "txt":
        return [" ".join(f"{value:.4g}" for value in values.reshape(-1)[:768]).encode()]
    if kind == "example":
        return [(folder / "app/examples/1.txt").read_bytes() + b"score 1 0.5\n"]
    return [(folder / "app/models/model.param").read_bytes()]


@pytest.mark.parametrize("kind", COUNTS)
def test_no_damaged_file_crashes_it(kind: str, app: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(sorted(COUNTS).index(kind))
    right = seeds(app, kind)
    names = []
    for number in range(COUNTS[kind]):
        path = tmp_path / f"{number}.{kind}"
        path.write_bytes(mutant(right[number % len(right)], random))
        names.append(path)
    for number, data in enumerate(right):  # it must accept all of these
        path = tmp_path / f"right-{number}.{kind}"
        path.write_bytes(data)
        names.append(path)
    (tmp_path / "1.png").write_bytes((app / "app/examples/1.png").read_bytes())  # the files that an example names
    line = [app / "build/fuzz", app / "app/models/model.param", app / "app/models/model.bin"]
    # ncnn allocates any memory that a .param asks for, and leaks memory when it refuses one.
    asan = "allocator_may_return_null=1:max_allocation_size_mb=1000:detect_leaks=" + str(int(kind != "param"))
    done = subprocess.run(
        list(map(str, line)), input="\n".join(map(str, names)), capture_output=True, text=True, check=False,
        env={**os.environ, "ASAN_OPTIONS": asan},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["taken"] + said["refused"] == len(names)
    assert said["refused"] > COUNTS[kind] / 10, "most damage shows"
    assert said["last_refused"] < COUNTS[kind], "whole files are taken"
