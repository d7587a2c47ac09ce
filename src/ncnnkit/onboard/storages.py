"""Checks the storage types of a network's blobs before it runs.

A blob of 16-bit values does not say whether it holds fp16 or bf16. ncnn assumes what the reader's options allow
(``convert_layout`` in its ``net.cpp``). If a layer's mask forbids both, it assumes fp32 and reads beyond the end of the
blob. If the mask forbids the right one, it reads garbage. A Cast trusts its ``type_from``. ncnn checks none of this;
:func:`check_storages` does.

The app in Python contains the code of this file (``standalone`` in ``app/bundling.py``). ``storages.cpp`` of the app in
C++ does the same, with the facts that ncnnkit writes into its ``model.h``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Tuple

CAST_TYPES = {"float": 1, "fp16": 2, "int8": 3, "bf16": 4}
"""The value of a Cast's ``type_from`` or ``type_to`` -> the storage of a blob."""

NO_FP16_STORAGE, NO_BF16_STORAGE = 2, 4  # bits of a layer's mask
TYPE_FROM, TYPE_TO, INT8_SCALE_TERM, FEATMASK = "0", "1", "8", "31"  # ids of params
INT8_TYPES = ("Convolution", "ConvolutionDepthWise", "InnerProduct")  # they have an int8_scale_term and read int8
REQUANTISED = 100  # a layer with a larger int8_scale_term outputs int8

WIDENS = {"InnerProduct": "int8", "MultiHeadAttention": "bf16", "SDPA": "bf16"}
"""Storage -> types of layers that read it and output fp32. Other types of layers output what they read."""

SIXTEEN_BITS = ("fp16", "bf16")


def check_storages(net: Any, param: str, on_gpu: bool) -> Dict[int, str]:
    """Refuse a loaded network in which a blob, or an output, would be read as another type than it has.

    Args:
        net: an ``ncnn.Net`` with loaded weights. Without them the layers do not know which storages they support.
        param: its ``.param`` file.
        on_gpu: whether it runs on a Vulkan device. ncnn chooses the types there, so only one thing is checked: a Cast
            from 16 bits is refused.

    Returns:
        Index of each blob in the network -> its storage on a CPU: ``float`` (fp32), ``fp16``, ``bf16`` or ``int8``.

    Raises:
        RuntimeError: a blob would be misread. The message names both layers, and the type that each uses.
    """
    names = {number: name for name, number in CAST_TYPES.items()}
    made: Dict[int, Tuple[str, str]] = {}  # blob -> its storage, and the layer that made it
    for layer, (name, kind, given) in zip(net.layers(), layers_of(param)):
        fp16, bf16 = allowed(net.opt, int(given.get(FEATMASK, 0)))
        arrived = []
        for blob in layer.bottoms:
            found, maker = made[blob]
            gets = arrives(layer, fp16, bf16, found)
            arrived.append(gets)
            expected = taken_for(fp16, bf16)
            if kind == "Cast":
                expected, found = names.get(int(given.get(TYPE_FROM, 0)), ""), "another type" if on_gpu else gets
                wrong = expected in SIXTEEN_BITS and found != expected
            else:
                wrong = found in SIXTEEN_BITS and found != expected and not on_gpu
            if wrong:
                raise misread("Cast" if kind == "Cast" else "layer", name, expected, found, maker)
        computes = "int8" if kind in INT8_TYPES and int(given.get(INT8_SCALE_TERM, 0)) else (arrived or ["float"])[0]
        if kind == "Cast":
            hands_on = names.get(int(given.get(TYPE_TO, 0)), computes)
        elif WIDENS.get(kind) == computes:
            hands_on = "float"
        elif kind in INT8_TYPES and computes == "int8" and int(given[INT8_SCALE_TERM]) <= REQUANTISED:
            hands_on = arrives(layer, fp16, bf16, "float")
        else:
            hands_on = computes
        made.update(dict.fromkeys(layer.tops, (hands_on, name)))
    expected = taken_for(*allowed(net.opt, 0))
    for blob, name in zip(net.output_indexes(), net.output_names()):
        found, maker = made[blob]
        if found in SIXTEEN_BITS and found != expected and not on_gpu:
            raise misread("output", name, expected, found, maker)
    return {blob: found for blob, (found, _) in made.items()}


def layers_of(param: str) -> List[Tuple[str, str, Dict[str, str]]]:
    """The name, type and parameters of each layer of a ``.param`` file."""
    lines = [line.split() for line in Path(param).read_text(encoding="utf-8").splitlines()[2:]]
    lines = [line for line in lines if len(line) > 3]
    ends = [4 + int(line[2]) + int(line[3]) for line in lines]
    return [(line[1], line[0], dict(w.partition("=")[::2] for w in line[end:])) for line, end in zip(lines, ends)]


def allowed(options: Any, mask: int) -> Tuple[bool, bool]:
    """(whether a layer with this mask may read fp16, whether it may read bf16).

    Without fp16 arithmetic, ncnn prefers bf16.
    """
    import ncnn

    bf16 = options.use_bf16_storage and not mask & NO_BF16_STORAGE
    fp16 = options.use_fp16_storage and not mask & NO_FP16_STORAGE
    return fp16 and (ncnn.cpu_support_arm_asimdhp() or (ncnn.cpu_support_arm_vfpv4() and not bf16)), bf16


def taken_for(fp16: bool, bf16: bool) -> str:
    """The storage that a layer assumes for a blob of 16-bit values."""
    return "fp16" if fp16 else "bf16" if bf16 else "float"


def arrives(layer: Any, fp16: bool, bf16: bool, found: str) -> str:
    """The storage in which a layer gets a blob.

    ncnn converts fp32 to 16 bits, and 16 bits that the layer cannot read.
    """
    able = {"fp16": layer.support_fp16_storage, "bf16": layer.support_bf16_storage, "float": True}
    if found == "float":
        return "fp16" if fp16 and able["fp16"] else "bf16" if bf16 and able["bf16"] else "float"
    return found if found == "int8" or able[taken_for(fp16, bf16)] else "float"


def misread(reader: str, name: str, expected: str, found: str, maker: str) -> RuntimeError:
    """The error for a blob that would be read as another type."""
    text = "this model does not run here: layer %s outputs %s, but %s %s reads %s"
    return RuntimeError(text % (maker, found, reader, name, expected))
