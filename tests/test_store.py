"""Decoding once, and a cache that is never wrong."""
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dataloaders.batches import cache as cache_module
from dataloaders.batches.store import build_store
from dataloaders.description import Case, DataSet, Item
from dataloaders.errors import UserError
from dataloaders.layouts.folder import FolderSource


class Arrays:
    """A layout of .npy files: images as written, labels beside them."""

    data = DataSet("Arrays", FolderSource, classes=("background", "one", "two"))
    cache_key = ""

    def __init__(self, root: Path):
        self.root = root
        self.reads: list[str] = []

    def items(self):
        return [self._item(path) for path in sorted(self.root.glob("*_image.npy"))]

    def _item(self, path):
        label = path.with_name(path.name.replace("image", "label"))
        return Item(path.stem[:2], Case(path.stem[:2], path, label, path.stem[:2]), path, label if label.exists() else None)

    def image(self, of):
        return self._read(of.image)

    def label(self, of):
        return self._read(of.label)

    def _read(self, path):
        self.reads.append(path.name)
        try:
            return np.load(path)
        except (OSError, ValueError, EOFError) as error:
            raise UserError(f"{path}: is no array.") from error


SHAPES = [(5, 7), (6, 6), (4, 9), (8, 3)]
LABELED = [True, True, False, False]


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("SEMISEG_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "data"
    root.mkdir()
    rng = np.random.default_rng(0)
    for i, shape in enumerate(SHAPES):
        np.save(root / f"c{i}_image.npy", rng.random((2, *shape)).astype(np.float32))
        np.save(root / f"c{i}_label.npy", rng.integers(0, 3, shape).astype(np.uint8))
    return Arrays(root)


def check(store, source):
    for i, item in enumerate(source.items()):
        np.testing.assert_array_equal(store.image(i), np.load(item.image))
        if LABELED[i]:
            np.testing.assert_array_equal(store.label(i), np.load(item.label))
        else:
            assert store.label(i) is None
    assert store.names == ("c0", "c1", "c2", "c3") and list(store.has_label) == LABELED
    assert store.memory == sum(a * b for a, b in SHAPES) * 8 + 5 * 7 + 6 * 6


@pytest.mark.parametrize("cache, place", [("auto", "disk cache"), ("disk", "disk cache"), ("ram", "RAM"), ("device", "cpu")])
def test_values(source, cache, place, tmp_path):
    store = build_store(source, source.items(), LABELED, cache, progress=False)
    check(store, source)
    assert store.place == place and store.on_device == (cache == "device")
    assert (tmp_path / "cache").exists() == (cache != "ram")


def test_second_time_nothing_is_decoded(source):
    first = build_store(source, source.items(), LABELED, progress=False)
    source.reads.clear()
    second = build_store(source, source.items(), LABELED, progress=False)
    assert source.reads == []
    check(second, source)
    np.testing.assert_array_equal(first.pixels, second.pixels)
    assert not list(source.root.glob("*cache*")) and len(list(source.root.iterdir())) == 8


def test_labels_of_unlabelled_items_are_never_opened(source):
    expected = build_store(source, source.items(), LABELED, progress=False)
    assert not {"c2_label.npy", "c3_label.npy"} & set(source.reads)
    (source.root / "c2_label.npy").write_bytes(b"poison")
    (source.root / "c3_label.npy").unlink()
    os.environ["SEMISEG_CACHE"] += "2"
    for cache in ("disk", "ram"):
        store = build_store(source, source.items(), LABELED, cache, progress=False)
        np.testing.assert_array_equal(store.pixels, expected.pixels)
        np.testing.assert_array_equal(store.labels, expected.labels)


def test_stale_cache_is_rebuilt(source):
    build_store(source, source.items(), LABELED, progress=False)
    for name, dtype in (("c1_image", np.float32), ("c0_label", np.uint8)):
        path = source.root / f"{name}.npy"
        stat = path.stat()
        np.save(path, (np.load(path) + 1).astype(dtype))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        check(build_store(source, source.items(), LABELED, progress=False), source)
    assert len(list(Path(os.environ["SEMISEG_CACHE"]).iterdir())) == 4, "a stale cache is replaced, not left behind"


def test_settings_of_the_source_are_part_of_the_key(source):
    build_store(source, source.items(), LABELED, progress=False)
    source.reads.clear()
    source.cache_key = "threshold 127"
    build_store(source, source.items(), LABELED, progress=False)
    assert source.reads


def damages():
    def cut(path):
        path.write_bytes(path.read_bytes()[:-3])

    def empty(path):
        path.write_bytes(b"")

    def other_write(path):
        path.write_bytes(b"0" * 64 + path.read_bytes()[64:])

    return [(".bin", cut), (".bin", empty), (".bin", other_write), (".json", cut), (".json", empty), (".json", Path.unlink)]


@pytest.mark.parametrize("suffix, damage", damages())
def test_damaged_cache_is_not_read(source, suffix, damage):
    build_store(source, source.items(), LABELED, progress=False)
    for path in Path(os.environ["SEMISEG_CACHE"]).glob(f"*{suffix}"):
        damage(path)
    source.reads.clear()
    check(build_store(source, source.items(), LABELED, progress=False), source)
    assert len(source.reads) == 6


def test_cut_off_write_leaves_nothing_that_is_read(source, monkeypatch):
    replaced = []

    def killed(old, new):
        replaced.append(new)
        if str(new).endswith(".json"):
            raise KeyboardInterrupt
        os.rename(old, new)

    monkeypatch.setattr(cache_module.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        build_store(source, source.items(), LABELED, progress=False)
    monkeypatch.undo()
    monkeypatch.setenv("SEMISEG_CACHE", str(source.root.parent / "cache"))
    assert replaced and not list((source.root.parent / "cache").glob("*.part"))
    source.reads.clear()
    check(build_store(source, source.items(), LABELED, progress=False), source)
    assert len(source.reads) == 6


@pytest.mark.parametrize("trouble", ["a file in its place", "no room"])
def test_unwritable_cache_falls_back_to_ram(source, monkeypatch, tmp_path, trouble):
    if trouble == "no room":
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(cache_module.os, "fsync", full)
    else:
        (tmp_path / "cache").write_text("not a folder")
    remarks = []
    store = build_store(source, source.items(), LABELED, progress=False, remark=remarks.append)
    check(store, source)
    assert store.place == "RAM" and len(remarks) == 1 and str(tmp_path / "cache") in remarks[0]


def test_all_problems_are_said_together(source):
    (source.root / "c0_image.npy").write_bytes(b"poison")
    (source.root / "c3_image.npy").write_bytes(b"")
    (source.root / "c1_label.npy").write_bytes(b"")
    with pytest.raises(UserError, match="3 problems") as caught:
        build_store(source, source.items(), LABELED, progress=False)
    assert all(name in str(caught.value) for name in ("c0_image.npy", "c3_image.npy", "c1_label.npy"))
    assert not list(Path(os.environ["SEMISEG_CACHE"]).iterdir())


def test_shapes_are_checked(source):
    np.save(source.root / "c1_label.npy", np.zeros((3, 3), np.uint8))
    np.save(source.root / "c2_image.npy", np.zeros((1, 4, 9), np.float32))
    with pytest.raises(UserError) as caught:
        build_store(source, source.items(), LABELED, progress=False)
    assert "label of c1 is 3 x 3, its image is 6 x 6" in str(caught.value) and "c2 is 1 x 4 x 9" in str(caught.value)
    np.save(source.root / "c2_image.npy", np.zeros((2, 4, 9), np.uint8))
    with pytest.raises(UserError, match="float32 and uint8"):
        build_store(source, source.items(), LABELED, "ram", progress=False)


def test_missing_things_are_said(source):
    with pytest.raises(UserError, match="no training image"):
        build_store(source, [], [], progress=False)
    items = source.items()
    with pytest.raises(UserError, match="have no label, for example c0"):
        build_store(source, [replace(items[0], label=None), *items[1:]], LABELED, progress=False)
    (source.root / "c2_image.npy").unlink()
    with pytest.raises(UserError, match="c2_image"):
        build_store(source, items, LABELED, progress=False)


def test_photographs_stay_8_bit(source):
    for i, shape in enumerate(SHAPES):
        np.save(source.root / f"c{i}_image.npy", np.full((2, *shape), i, np.uint8))
    store = build_store(source, source.items(), LABELED, progress=False)
    assert store.is_photograph and store.pixels.dtype == np.uint8
    assert build_store(source, source.items(), LABELED, "device", progress=False).pixels.dtype == torch.uint8
    assert (store.image(3) == 3).all()


def build_in_process(root, barrier, results):
    source = Arrays(Path(root))
    barrier.wait(30)
    store = build_store(source, source.items(), LABELED, "disk", progress=False)
    results.put((store.pixels.tobytes(), store.labels.tobytes()))


def test_two_processes_at_once(source):
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(2), context.Queue()
    processes = [context.Process(target=build_in_process, args=(source.root, barrier, results)) for _ in range(2)]
    for process in processes:
        process.start()
    first, second = results.get(timeout=60), results.get(timeout=60)
    for process in processes:
        process.join(30)
    assert first == second
    source.reads.clear()
    check(build_store(source, source.items(), LABELED, progress=False), source)
    assert source.reads == []
