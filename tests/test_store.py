"""What runs keep for later ones: entries are whole or absent, checked, bounded, and nobody else's."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import small

from ncnnkit.cache import store as store_module
from ncnnkit.cache.packing import Unpackable, content, digest, pack, unpack
from ncnnkit.cache.store import Store
from ncnnkit.errors import FormatError, StorageError
from ncnnkit.model.graph import EncodedWeight, Graph, Layer


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "stages", most=100_000)


def names(store: Store) -> list[str]:
    return sorted(path.name for path in store.home.iterdir())


def test_what_is_kept_comes_back_with_its_files(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"rows")
    assert store.value("k") is None
    assert store.keep("k", "outputs", b"value", [tmp_path / "a.npy"])
    assert store.value("k", tmp_path / "again") == b"value"
    assert (tmp_path / "again" / "a.npy").read_bytes() == b"rows"
    assert [(kept.key, kept.what) for kept in store.entries()] == [("k", "outputs")]
    assert names(store) == ["k"], "no scratch is left"
    assert store.home.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("file", ["value", "files/a.npy", "entry.json"])
@pytest.mark.parametrize("damage", ["changed", "missing", "pipe", "device", "folder"])
def test_a_damaged_entry_is_removed_and_not_used(store: Store, tmp_path: Path, file: str, damage: str) -> None:
    (tmp_path / "a.npy").write_bytes(b"rows")
    store.keep("k", "outputs", b"value", [tmp_path / "a.npy"])
    path = store.home / "k" / file
    path.unlink()
    if damage == "changed":
        path.write_bytes(b"other")
    elif damage == "pipe":
        os.mkfifo(path)
    elif damage == "device":
        path.symlink_to("/dev/zero")
    elif damage == "folder":
        path.mkdir()
    assert store.value("k", tmp_path / "again") is None
    assert names(store) == []


def test_the_entry_that_was_not_used_for_longest_makes_room(store: Store) -> None:
    for number, key in enumerate("abcde"):
        store.keep(key, "x", bytes(20_000))
        os.utime(store.home / key / "entry.json", (number, number))
    store.keep("f", "x", bytes(20_000))
    assert names(store) == ["c", "d", "e", "f"], "with what describes them, five are more than the bound"
    assert store.value("c") is not None
    store.keep("g", "x", bytes(20_000))
    assert names(store) == ["c", "e", "f", "g"], "c was used"


def test_what_is_too_large_is_not_kept(store: Store) -> None:
    assert not store.keep("k", "x", bytes(30_000))
    assert names(store) == []


def test_a_full_disk_keeps_nothing_and_says_so(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LEAST_FREE", 1 << 60)
    assert not store.keep("k", "x", b"value")
    assert store.entries() == []


def test_a_folder_in_which_others_may_write_is_not_trusted(store: Store) -> None:
    store.keep("k", "x", b"value")
    store.home.chmod(0o777)
    assert store.value("k") is None
    assert not store.keep("l", "x", b"value")
    with pytest.raises(StorageError, match="others may write"):
        store.clear()


def test_clear_removes_every_entry_and_nothing_else(store: Store, tmp_path: Path) -> None:
    store.keep("k", "x", b"value")
    (store.home / "note.txt").touch()
    assert store.clear() > 5
    assert names(store) == ["note.txt"]
    assert Store(tmp_path / "absent").clear() == 0


KEEPING = """
    import sys
    from pathlib import Path
    from ncnnkit.cache.store import Store
    store, number = Store(Path(sys.argv[1])), 0
    while True:
        store.keep(str(number), "x", number.to_bytes(4, "little") * 500_000)
        print(number, flush=True)
        number += 1
"""


def test_a_process_that_is_killed_while_it_keeps_leaves_whole_entries_only(tmp_path: Path) -> None:
    store = Store(tmp_path / "stages")
    rng = np.random.default_rng(0)
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(KEEPING), str(store.home)], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.05))
            process.send_signal(signal.SIGKILL)
        kept = [entry.key for entry in store.entries()]
        assert kept
        assert all(store.value(key) == int(key).to_bytes(4, "little") * 500_000 for key in kept)
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KEEPING), str(store.home)], stdout=subprocess.PIPE
    ) as process:  # the next process removes what the killed ones left
        assert process.stdout is not None
        process.stdout.readline()
        left = {path.name for path in store.home.glob("ncnnkit-scratch-*")}
        process.kill()
    assert len(left) <= 1


# --------------------------------------------------------------------------------------------------------- packing


def test_values_come_back_to_the_bit_and_to_the_type() -> None:
    value: dict[Any, Any] = {
        ("a", 1): [1, 1.5, float("inf"), True, None, "text", b"bytes", np.float32(0.1), np.int64(3)],
        "arrays": (np.arange(6, dtype=np.int8).reshape(2, 3).T, np.empty((0, 3), np.float16)),
        "set": frozenset({2, 1}),
    }
    found = unpack(pack(value))
    assert found.keys() == value.keys()
    assert list(map(type, found["a", 1])) == list(map(type, value["a", 1]))
    assert found["a", 1] == value["a", 1]
    assert found["set"] == value["set"]
    for ours, theirs in zip(found["arrays"], value["arrays"], strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert np.array_equal(ours, theirs)
    assert digest(found) == digest(value)


def test_a_network_comes_back() -> None:
    graph = small()
    graph.layers[1].weights["bias"] = EncodedWeight(1, np.zeros(1024 + 8, np.uint8), (8,))
    found = unpack(pack(graph))
    assert found == graph
    assert isinstance(found, Graph)
    assert digest(found) == digest(graph)
    found.layers[2].params["stride_w"] = 2
    assert digest(found) != digest(graph)


def test_only_dataclasses_of_ncnnkit_are_packed_and_made() -> None:
    class Own(Layer):
        pass

    for value in (len, object(), Own("A", "b", [], []), np.array([None])):
        with pytest.raises(Unpackable):
            pack([value])
    import msgspec

    for named in ("os:system", "ncnnkit.cache.store:cache_folder", "ncnnkit.cache.store:os", "ncnnkit.nothing:X"):
        with pytest.raises(FormatError):
            unpack(msgspec.msgpack.encode(["object", named, "true"]))
    for data in (b"", b"\xc1", msgspec.msgpack.encode(["array", "<f4", [3], b"x"]), msgspec.msgpack.encode([])):
        with pytest.raises(FormatError):
            unpack(data)


def test_the_content_of_samples_is_their_shapes_and_values() -> None:
    one = [(np.zeros((2, 3), np.float32),), (np.ones((2, 3), np.float32),)]
    assert content(iter(one)) == content(one)
    assert content(one) != content(one[::-1])
    assert content(one) != content([(x.reshape(3, 2),) for (x,) in one])
