"""ncnn's ``.param`` and ``.bin`` files: the only module that knows their bytes.

``.param`` is text: the magic number 7767517, the numbers of layers and blobs, then one line for each layer::

    type name #inputs #outputs input-blobs… output-blobs… id=value…

``.bin`` holds the weights in layer order, each layer's blocks in the order of its row in :mod:`ncnnkit.model.ops`. A
*tagged* block begins with four bytes that name its storage, and is padded to a multiple of four bytes. The other blocks
are fp32 without a tag.

=============  ==================================================================
tag            what follows
=============  ==================================================================
0              fp32
0x01306B47     fp16
0x000D4B38     int8
0x0002C056     fp32 (legacy; kept as it is)
anything else  a table of 256 fp32 values, then one uint8 index for each value
=============  ==================================================================

Sources: ``src/paramdict.cpp``, ``src/modelbin.cpp``, ``src/net.cpp`` and ``tools/modelwriter.h`` of ncnn.
"""

from __future__ import annotations

import errno
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from numbers import Integral
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, StorageError, is_full, meant_path, printable
from ..formatting import first_few
from ..onboard.userfiles import LINES, check_regular, read_text
from .graph import Checker, EncodedWeight, Graph, Layer, Names, Weight
from .ops import MAX_PARAMS, OPS, Param, Value

MAGIC = 7767517
_ARRAY = -23300
_FP32 = np.dtype("<f4")
_TAGS: dict[int, np.dtype[Any]] = {0x00000000: _FP32, 0x01306B47: np.dtype("<f2"), 0x000D4B38: np.dtype(np.int8)}
_TAG_OF = {dtype: tag for tag, dtype in _TAGS.items()}
_BYTES = np.dtype(np.uint8)
_TOKEN = re.compile(r'(-?\d+)=("[^"\n]*"|[^\s]*)', re.ASCII)
_COUNT = re.compile(r"\d{1,9}", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_NAME_LIMIT = 255  # bytes; ncnn reads no more of a name
_PIECE = 15  # bytes of a number, or of the first piece of a text, which ends before a space or a comma
_LONGEST_ID = 6  # characters of the id of a param, which is from -23331 to 31
_REST = 240  # bytes of the rest of a text
_MOST_NAMED = 3  # a warning names no more items than this


# ------------------------------------------------------------------------------------------------------- reading


def load(param: str | Path, weights: str | Path | None = None) -> Graph:
    """Read a network.

    Args:
        param: the ``.param`` file.
        weights: the ``.bin`` file; by default the ``.param``'s path with the suffix ``.bin``.

    Returns:
        The graph. Its weight arrays are read-only views into the mapped ``.bin``.

    Raises:
        FormatError: a file is missing, truncated or corrupt, or the network is malformed. The error names the line or
            the layer.

    Example:
        >>> graph = nk.load("model.param")
        >>> graph.inputs, graph.outputs, graph.input_shapes()
        (['in0'], ['out0'], [(3, 224, 224)])
    """
    param = Path(param)
    graph, idle = _parse(_read_text(param), str(param))
    if any(True for layer in graph.layers for _ in layer.slots()):
        read_weights(graph, weights if weights is not None else param.with_suffix(".bin"))
    return _usable(_without(graph, idle), param)


def load_param(param: str | Path) -> Graph:
    """Read the structure alone, without weights. Raises FormatError."""
    return _usable(parse_param(_read_text(Path(param)), where=str(param)), param)


def _usable(graph: Graph, param: str | Path) -> Graph:
    """The graph of a file, if its layers can run. Raises FormatError."""
    for layer in graph.layers:
        layer.check_usable(f"{param}, layer {layer.type} {layer.name}")
    return graph


def _read_text(path: Path) -> str:
    try:
        return read_text(path, LINES)
    except FileNotFoundError:
        raise FormatError("no such file", where=str(path), hint=meant_path(path)) from None
    except IsADirectoryError:
        hint = "name a .param file in it; ncnnkit.open_run() reads the folder of a run"
        raise FormatError("is a folder, not a .param file", where=str(path), hint=hint) from None
    except UnicodeDecodeError:
        param = path.with_suffix(".param")
        weights = path.suffix == ".bin" and param.exists()
        hint = f"give {param.name}" if weights else "binary .param.bin files are not supported"
        raise FormatError("is not text", where=str(path), hint=hint) from None
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", where=str(path)) from None


def parse_param(text: str, *, where: str = "<param>") -> Graph:
    """Parse the text of a ``.param`` file. The graph is well formed, except that it has no weights.

    ncnn accepts more than a well-formed graph, and so does this function. A warning says what it changed:

    - A layer with the name of an earlier layer gets a name of its own.
    - If two layers produce a blob with the same name, all readers read the first one, as in ncnn. The second one gets
      another name. If all outputs of a layer have such names, ncnn never runs the layer, and it is left out.
    - A param with an id that the layer type does not use is ignored by ncnn. It is kept, and written again.
    - A whole number where the layer type expects a real one is read as that number. ncnn up to 1.0.20260526 reads its
      bits instead, so that ``1`` becomes 1.4e-45. It is written as a real number. An array of whole numbers that are
      the bits of real numbers of a usual size is read as these.

    Raises:
        FormatError: a line cannot be read, or is not valid at its place. The error gives the number of the first such
            line.
    """
    return _without(*_parse(text, where))


def _without(graph: Graph, idle: list[Layer]) -> Graph:
    """The graph without layers that ncnn never runs."""
    return Graph([layer for layer in graph.layers if not any(layer is other for other in idle)])


def _parse(text: str, where: str) -> tuple[Graph, list[Layer]]:
    """All layers of a file, and those that ncnn never runs. The ``.bin`` has the weights of all layers."""
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not lines:
        raise FormatError("is empty", where=where)
    if lines[0][1] != str(MAGIC):
        raise FormatError(
            f"does not begin with ncnn's magic number {MAGIC}",
            where=f"{where}:{lines[0][0]}",
            hint="is it an ncnn .param file?",
        )
    counts = lines[1][1].split() if len(lines) > 1 else []
    if len(counts) != 2 or not all(map(_COUNT.fullmatch, counts)):
        raise FormatError("the layer and blob counts are missing", where=f"{where}:{lines[min(1, len(lines) - 1)][0]}")
    layer_count, blob_count = map(int, counts)
    if layer_count == 0:
        raise FormatError("the network has no layers", where=f"{where}:{lines[1][0]}")
    body, last = lines[2:], f"{where}:{lines[-1][0]}"
    if len(body) < layer_count:
        raise FormatError(f"{len(body)} layers, but line 2 says {layer_count}", where=last, hint="truncated?")
    if len(body) > layer_count:
        # ncnn stops reading after the counted layers (nanodet_m.param in its own benchmark folder has one more).
        warnings.warn(f"{where}: line 2 counts {layer_count} layers of {len(body)}; the rest is ignored", stacklevel=2)
    graph, checker, names, blobs = Graph(), Checker(), set[str](), set[str]()
    renamed, strange, whole, idle, produced = list[str](), list[str](), list[str](), list[Layer](), 0
    for number, line in body[:layer_count]:
        layer = _parse_layer(line, f"{where}:{number}")
        whole += _as_real(layer)
        produced += len(layer.outputs)
        strange += [f"{name} of {layer.type} {layer.name}" for name in layer.params if layer.op.ignores(name)]
        if layer.name in names:  # ncnn never looks a layer up by its name; ncnnkit does
            renamed.append(f"layer {layer.name}")
            layer.name = Names(graph).new(layer.name, str(number))
        names.add(layer.name)
        twice = [blob for blob in layer.outputs if blob in blobs]
        if twice and len(twice) == len(layer.outputs):
            idle.append(layer)
            graph.layers.append(layer)
            continue
        for blob in twice:
            renamed.append(f"blob {blob}")
            layer.outputs[layer.outputs.index(blob)] = Names(graph).new(blob, str(number))
        blobs.update(layer.outputs)
        checker.add(layer, f"{where}:{number}, layer {layer.type} {layer.name}")
        graph.layers.append(layer)
    if produced > blob_count:
        raise FormatError(f"{produced} blobs, but line 2 says {blob_count}", where=last)
    _tell(where, "ncnn ignores params that a layer type does not use", strange)
    _tell(where, "some versions of ncnn misread a real number without a point (1 for 1.0); ncnnkit writes 1.0", whole)
    _tell(where, "names that were used twice are changed", renamed)
    _tell(where, "layers are left out because ncnn never runs them: their outputs have the names of earlier blobs",
          [f"{layer.type} {layer.name}" for layer in idle])  # fmt: skip
    return graph, idle


def _tell(where: str, what: str, items: list[str]) -> None:
    """Warn about items of a file, and name the first few."""
    if items:
        warnings.warn(printable(f"{where}: {what}: {first_few(items, _MOST_NAMED)}"), stacklevel=1)


def _parse_layer(line: str, where: str) -> Layer:
    head = line.split(None, 4)
    if len(head) < 4 or not all(map(_COUNT.fullmatch, head[2:4])):
        raise FormatError("not a layer line (type name inputs outputs …)", where=where)
    kind, name, n_in, n_out = head[0], head[1], int(head[2]), int(head[3])
    if kind not in OPS:
        raise FormatError(
            f"unknown layer type {kind!r}", where=where, hint="ncnn has no such layer; custom layers are not supported"
        )
    rest = head[4] if len(head) > 4 else ""
    blobs = rest.split(None, n_in + n_out)
    if len(blobs) < n_in + n_out:
        raise FormatError(f"{n_in + n_out} blob names expected, {len(blobs)} found", where=where)
    params = blobs[n_in + n_out] if len(blobs) > n_in + n_out else ""
    layer = Layer(kind, name, blobs[:n_in], blobs[n_in : n_in + n_out])
    layer.params = _parse_params(params, layer, where)
    return layer


def _parse_params(text: str, layer: Layer, where: str) -> dict[str, Value]:
    params: dict[str, Value] = {}
    position = 0
    for match in _TOKEN.finditer(text):
        if text[position : match.start()].strip():
            break
        position = match.end()
        if len(match[1]) > _LONGEST_ID:
            raise FormatError(f"ncnn has params 0 to {MAX_PARAMS - 1}, not {match[1][:40]}", where=where)
        number, raw = int(match[1]), match[2]
        array = number <= _ARRAY
        number = _ARRAY - number if array else number
        if not 0 <= number < MAX_PARAMS:
            raise FormatError(f"ncnn has params 0 to {MAX_PARAMS - 1}, not {number}", where=where)
        column = layer.op.by_id.get(number)
        key = column.name if column else str(number)  # see Op.ignores
        try:
            params[key] = _parse_array(raw) if array else _parse_value(raw)
        except ValueError as error:
            raise FormatError(f"param {number} ({key}): {error}", where=where) from None
    if text[position:].strip():
        raise FormatError(f"cannot read {text[position:].split()[0]!r} as id=value", where=where)
    return params


def _as_real(layer: Layer) -> Iterator[str]:
    """Convert params to real numbers where the type expects them. Yields those that some versions of ncnn misread.

    ``ParamDict::load_param`` reads a number without a point and an exponent as int32. Where a layer expects fp32,
    ncnn 1.0.20261020 converts it, and 1.0.20260526 takes its bits: ``1`` becomes 1.4e-45. Both misread an array that
    has whole numbers among real ones. If all numbers of an array are whole, every version of ncnn takes the bits.
    Published files of YOLOv3 rely on this: 1065353216 in a ``mask`` is 1.0.
    """
    for key, value in layer.params.items():
        given = value if isinstance(value, tuple) else (value,)
        whole = [v for v in given if isinstance(v, int)]
        if isinstance(value, str) or not whole:
            continue
        real = not layer.op.ignores(key) and layer.op.param(key).real
        if real and isinstance(value, tuple) and len(whole) == len(given) and all(map(_is_bits, whole)):
            layer.params[key] = tuple(np.array(whole, np.int32).view(np.float32).tolist())
            continue
        if real and any(whole):
            yield f"{key} of {layer.type} {layer.name}"
        if real or len(whole) < len(given):
            layer.params[key] = tuple(map(float, value)) if isinstance(value, tuple) else float(value)


def _is_bits(number: int) -> bool:
    """Whether a whole number is the bit pattern of an fp32 number of usual size: 0, or ±2^-20 to ±2^30."""
    value = abs(float(np.array(number, np.int32).view(np.float32)))
    return number == 0 or 2.0**-20 <= value <= 2.0**30


def _parse_array(raw: str) -> Value:
    count, *items = raw.split(",")
    if count != str(len(items)):
        raise ValueError(f"the array announces {count or 'no'} values and has {len(items)}")
    return tuple(map(_number, items))  # both ints and floats, see _as_real


def _parse_value(raw: str) -> Value:
    if raw[:1] == '"':
        if len(raw) < 2 or raw[-1] != '"':
            raise ValueError("a text without its closing quote")
        return raw[1:-1]
    if raw[:1].isascii() and raw[:1].isalpha():
        return raw.removesuffix('"')
    if "," in raw:
        first, *rest = [_number(item) for item in raw.split(",") if item] or [0]
        return tuple(type(first)(v) for v in (first, *rest))  # ncnn reads all items as it reads the first
    return _number(raw)


def _number(text: str) -> int | float:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a number")
    if "." in text or "e" in text.lower():
        # ncnn keeps params in fp32. The graph must hold the values with which ncnn computes.
        with np.errstate(over="ignore"):
            value = float(np.float32(float(text)))
        if math.isinf(value):
            raise ValueError(f"{text[:40]} is too large for fp32")
        return value
    if len(text) > 40 or not -(1 << 31) <= int(text) < 1 << 31:
        raise ValueError(f"{text[:40]} does not fit into 32 bits")
    return int(text)


def read_weights(graph: Graph, path: str | Path) -> None:
    """Attach the weights of a ``.bin`` file to a graph's layers, as read-only views of the mapped file.

    Raises:
        FormatError: the file is missing, too short (names the layer) or longer than the network needs.
    """
    path = Path(path)
    try:
        check_regular(path)
        size = path.stat().st_size
        data: NDArray[np.uint8] = np.memmap(path, np.uint8, "r") if size else np.empty(0, np.uint8)
    except FileNotFoundError:
        raise FormatError("the weights are missing", where=str(path), hint="keep the .bin beside its .param") from None
    except OSError as error:
        raise FormatError(f"cannot be read: {error.strerror}", where=str(path)) from None
    reader = _Blocks(data, path)
    for layer in graph.layers:
        for slot, shape in layer.slots():
            reader.at = f"weight {slot.name!r} of layer {layer.name}"
            if slot.packed(layer.p) and reader.peek() != _TAG_OF[np.dtype(np.int8)]:
                layer.weights[slot.name] = reader.plain(shape, _BYTES)
            else:
                layer.weights[slot.name] = reader.tagged(shape) if slot.tagged else reader.plain(shape, _FP32)
    if reader.offset != size:
        raise FormatError(
            f"{size - reader.offset} bytes are left over after the last layer",
            where=str(path),
            hint="does the .bin belong to another .param?",
        )


class _Blocks:
    """Reads a mapped ``.bin``, block by block."""

    def __init__(self, data: NDArray[np.uint8], path: Path) -> None:
        self.data, self.path, self.offset, self.at = np.asarray(data), path, 0, ""

    def take(self, count: int) -> NDArray[np.uint8]:
        if self.offset + count > len(self.data):
            missing = self.offset + count - len(self.data)
            raise FormatError(f"ends {missing} bytes too early, in {self.at}", where=str(self.path), hint="truncated?")
        block = self.data[self.offset : self.offset + count]
        self.offset += count
        return block

    def plain(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Weight:
        length = math.prod(shape) * dtype.itemsize
        return self.take(_aligned(length))[:length].view(dtype).reshape(shape)

    def peek(self) -> int:
        return int.from_bytes(self.data[self.offset : self.offset + 4].tobytes(), "little")

    def tagged(self, shape: tuple[int, ...]) -> Weight:
        tag = int.from_bytes(self.take(4).tobytes(), "little")
        if tag in _TAGS:
            return self.plain(shape, _TAGS[tag])
        return EncodedWeight(tag, self.take(EncodedWeight.length(tag, math.prod(shape))), shape)


def _aligned(length: int) -> int:
    return (length + 3) // 4 * 4


# ------------------------------------------------------------------------------------------------------- writing


def save(graph: Graph, param: str | Path, weights: str | Path | None = None) -> None:
    """Write a network. Both files appear complete or not at all.

    Args:
        graph: the network. It is verified before anything is written.
        param: path of the ``.param`` file; its folder must exist.
        weights: path of the ``.bin`` file; by default ``param`` with the suffix ``.bin``.

    Raises:
        FormatError: the graph is not well formed.
        StorageError: the disk is full, or a file cannot be written.
    """
    graph.verify()
    param = Path(param)
    bin_path = Path(weights) if weights is not None else param.with_suffix(".bin")
    if param == bin_path:
        raise FormatError("the .param and the .bin would be the same file", where=str(param), hint="name it .param")
    text = format_param(graph).encode()
    # Both are complete before one appears, the .bin first: a .param is never seen without the weights it needs.
    with atomic_write(param) as file, atomic_write(bin_path) as blocks:
        file.write(text)
        file.flush()
        for layer in graph.layers:
            _write_weights(layer, blocks)


def format_param(graph: Graph) -> str:
    """The text of the ``.param`` file. Raises FormatError for values that the format cannot hold."""
    lines = [str(MAGIC), f"{len(graph.layers)} {graph.blob_count}"]
    for layer in graph.layers:
        for name in (layer.name, *layer.inputs, *layer.outputs):
            if not name or re.search(r"\s", name) or len(name.encode()) > _NAME_LIMIT:
                raise FormatError(f"ncnn cannot hold the name {name!r}", where=f"layer {layer.type} {layer.name}")
        counts = f"{len(layer.inputs)} {len(layer.outputs)}"
        head = " ".join([f"{layer.type:<24} {layer.name:<24} {counts}", *layer.inputs, *layer.outputs])
        params = (_format(layer, layer.op.param(key), value) for key, value in layer.params.items())
        lines.append(" ".join([head, *params]))
    return "\n".join(lines) + "\n"


def _format(layer: Layer, param: Param, value: Value) -> str:
    number, where = param.id, f"layer {layer.name}, param {param.id}"
    if isinstance(value, str):
        return f"{number}={_quoted(value, where)}"
    given = value if isinstance(value, tuple) else (value,)
    # Where ncnn expects a real number, and in an array of real numbers, it would read the bits of a whole number.
    whole = not param.real and all(isinstance(v, Integral) for v in given)
    items = [_text(v if whole else float(v), where) for v in given]
    return f"{_ARRAY - number}=" + ",".join([str(len(items)), *items]) if given is value else f"{number}={items[0]}"


def _quoted(text: str, where: str) -> str:
    # ncnn's scanner reads a first piece, from the quote up to a space or a comma, and then the rest with its quote.
    # Versions up to 2026 fail if the first piece is empty, or if it has the full length and no rest follows.
    piece = re.split("[ ,]", text)[0][: _PIECE - 1]
    rest = text[len(piece) :]
    whole = not text or (piece and (rest or len(piece) < _PIECE - 1))
    if not whole or len(rest) > _REST or not text.isascii() or re.search(r'["\n\r]', text):
        raise FormatError(f"ncnn cannot hold the text {text[:60]!r}", where=where)
    return f'"{text}"'


def _text(value: int | float, where: str) -> str:
    if isinstance(value, Integral):
        if not -(1 << 31) <= value < 1 << 31:
            raise FormatError(f"ncnn cannot hold {value}", where=where)
        return str(int(value))
    with np.errstate(over="ignore"):
        number = np.float32(value)
    if not np.isfinite(number):
        raise FormatError(f"ncnn cannot hold {value}", where=where)
    # The shortest text that reads back to the same fp32. ncnn recognises a float by its '.' or 'e'. It reads the digits
    # on each side of the point into 32 bits, and at most fifteen characters in total.
    text = np.format_float_positional(number, trim="0")
    short = re.fullmatch(r"-?\d{1,9}\.\d{1,9}", text) and len(text) <= _PIECE
    return text if short else np.format_float_scientific(number, trim="-")


def _write_weights(layer: Layer, file: IO[bytes]) -> None:
    for slot, _ in layer.slots():
        weight = layer.weights.get(slot.name)
        if weight is None:
            raise FormatError(f"lacks its weight {slot.name!r}", where=f"layer {layer.type} {layer.name}")
        if isinstance(weight, EncodedWeight) and slot.tagged:
            file.write(weight.tag.to_bytes(4, "little"))
            file.write(np.ascontiguousarray(weight.payload).data)
            continue
        allowed = {*(_TAG_OF if slot.tagged else (_FP32,)), *([_BYTES] if slot.packed(layer.p) else ())}
        if isinstance(weight, EncodedWeight) or weight.dtype not in allowed:
            stored = "encoded" if isinstance(weight, EncodedWeight) else weight.dtype
            raise FormatError(
                f"weight {slot.name!r} is {stored}, it must be {' or '.join(sorted(map(str, allowed)))}",
                where=f"layer {layer.type} {layer.name}",
            )
        if slot.tagged and weight.dtype != _BYTES:
            file.write(_TAG_OF[weight.dtype].to_bytes(4, "little"))
        data = np.ascontiguousarray(weight)
        file.write(data.reshape(-1).view(np.uint8).data)
        file.write(b"\0" * (_aligned(data.nbytes) - data.nbytes))


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that appears under its name only when it is complete. Creates its folder. Raises StorageError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with suppress(FileExistsError):  # if a file is in the folder's place, opening the new file reports it
            path.parent.mkdir(parents=True)
        if path.is_dir():  # checked first, before another file of the same network is written
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with partial.open("wb", buffering=1 << 20) as file:
            yield file
        partial.replace(path)
    except OSError as error:
        hint = "free some space and run again" if is_full(error) else "choose another folder"
        raise StorageError(f"cannot be written: {error.strerror or error}", where=str(path), hint=hint) from error
    finally:
        with suppress(OSError):
            partial.unlink()
