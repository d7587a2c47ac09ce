"""The types of a mixed network's blobs, checked before it runs.

A Cast says which type it reads, and believes it: where another ncnn, another CPU or other options hand on another type,
it reads garbage, even beyond the end of its input. An output of 16 bits is taken for fp16 wherever fp16 is on. ncnn
checks neither; :func:`check_casts` does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

KINDS = {2: "fp16", 4: "bf16"}
"""A Cast's ``type_from`` -> the type of 16 bits it reads; for the others, ncnn converts."""

NO_FP16_STORAGE, NO_BF16_STORAGE = 2, 4  # bits of a layer's mask, param 31


def check_casts(net: Any, param: str, on_gpu: bool) -> None:
    """Refuse a loaded network one of whose Casts, or whose outputs, would be read as another type than they have.

    Args:
        net: an ``ncnn.Net`` with its weights: only then its layers know what they can store.
        param: its ``.param`` file.
        on_gpu: whether it runs on a Vulkan device, which hands on types of its own.

    Raises:
        RuntimeError: names the layer whose output has another type.
    """
    lines = [line.split() for line in Path(param).read_text(encoding="utf-8").splitlines()[2:]]
    lines = [line for line in lines if len(line) > 3]
    ends = [4 + int(line[2]) for line in lines]
    params = [dict(word.partition("=")[::2] for word in line[end:] if "=" in word) for line, end in zip(lines, ends)]
    makers = {blob: i for i, (line, end) in enumerate(zip(lines, ends)) for blob in line[end : end + int(line[3])]}
    for line, given in zip(lines, params):
        expected = KINDS.get(int(given.get("0", 0))) if line[0] == "Cast" else None
        if expected is None:
            continue
        maker = makers[line[4]]
        while lines[maker][0] == "Split":
            maker = makers[lines[maker][4]]
        found = "another type" if on_gpu else handed_on(net, net.layers()[maker], int(params[maker].get("31", 0)))
        if found != expected:
            raise RuntimeError(
                "this mixed model does not run here: layer %s outputs %s, but Cast %s reads %s; the model is made "
                "for another CPU, ncnn, backend or precision" % (lines[maker][1], found, line[1], expected)
            )
    if on_gpu or not (net.opt.use_bf16_storage and reads_fp16(net)):
        return
    for blob in net.output_names():
        maker = makers[blob]
        while lines[maker][0] == "Split":
            maker = makers[lines[maker][4]]
        if lines[maker][0] == "Input" or lines[maker][3] == "0":
            continue
        if handed_on(net, net.layers()[maker], int(params[maker].get("31", 0))) == "bf16":
            raise RuntimeError(
                "this mixed model does not run here: its output %s is bf16, and ncnn reads it as fp16 on this CPU; "
                "make the model for this CPU" % blob
            )


def reads_fp16(net: Any) -> bool:
    """Whether ncnn takes blobs of 16 bits for fp16 on this CPU."""
    import ncnn

    return bool(net.opt.use_fp16_storage and ncnn.cpu_support_arm_asimdhp())


def handed_on(net: Any, layer: Any, mask: int) -> str:
    """The type of a layer's outputs on the CPU: ``fp16``, ``bf16`` or ``fp32``, as ``convert_layout`` of net.cpp."""
    if reads_fp16(net) and not mask & NO_FP16_STORAGE and layer.support_fp16_storage:
        return "fp16"
    bf16 = net.opt.use_bf16_storage and not mask & NO_BF16_STORAGE and layer.support_bf16_storage
    return "bf16" if bf16 else "fp32"
