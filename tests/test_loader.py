"""Batches: pure functions of seed and step, whoever asks and whenever."""
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_augment import make_store

from dataloaders.augmentation.augmenter import Augmenter
from dataloaders.augmentation.frame import Fill
from dataloaders.augmentation.recipes import RECIPES, draw
from dataloaders.batches.loader import Loader
from dataloaders.batches.store import Store
from dataloaders.errors import UserError

SHAPES = [(40, 30), (32, 48), (50, 50)] * 8
COMMON = {"batch_size": 8, "labeled_bs": 3, "patch_size": (32, 32), "recipe": "rot_flip", "seed": 5, "threads": 2}


def make_loader(store=None, **changes):
    return Loader(store or make_store(SHAPES), range(7), range(7, 24), **{**COMMON, **changes})


def equal(a, b):
    assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)
    assert (a.step, a.epoch, a.last_of_epoch, a.cases) == (b.step, b.epoch, b.last_of_epoch, b.cases)
    assert a.rng.random() == b.rng.random()


def test_batch_has_what_methods_need():
    batch = make_loader().batch(3)
    assert batch.images.shape == (8, 1, 32, 32) and batch.images.dtype == torch.float32
    assert batch.labels.shape == (3, 32, 32) and batch.labels.dtype == torch.int64 and batch.n_labeled == 3
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labeled.data_ptr() == batch.images.data_ptr() and len(batch.unlabeled) == 5
    assert batch.unlabeled.data_ptr() == batch.images[3:].data_ptr()
    assert all(int(name[5:]) < 7 for name in batch.cases[:3]) and all(int(name[5:]) >= 7 for name in batch.cases[3:])
    assert batch.strong is None


def test_prefetching_and_start_change_nothing():
    whole = dict(make_loader().batches(0, 9))
    assert list(whole) == list(range(9))
    resumed = dict(make_loader().batches(4, 9))
    single = make_loader()
    for t in range(4, 9):
        equal(resumed[t], single.batch(t))
        equal(single.batch(t), whole[t]) if t % 2 else None
    assert not torch.equal(whole[0].images, make_loader(seed=6).batch(0).images)


def test_threads_change_nothing():
    for t in range(3):
        equal(make_loader(threads=1).batch(t), make_loader(threads=3).batch(t))


def test_photographs_in_either_memory_format():
    store = make_store(SHAPES, 3, np.uint8)
    for recipe in ("simeps_neu", "rot_flip"):
        last, first = (make_loader(store, recipe=recipe, channels_last=value).batch(1) for value in (True, False))
        assert last.images.is_contiguous(memory_format=torch.channels_last) and first.images.is_contiguous()
        equal(last, first)


def test_epochs():
    batches = [batch for _, batch in make_loader().batches(0, 5)]
    assert [b.epoch for b in batches] == [0, 0, 1, 1, 2] and [b.last_of_epoch for b in batches] == [False, True] * 2 + [False]
    batches = [batch for _, batch in make_loader(steps_per_epoch=3).batches(0, 5)]
    assert [b.epoch for b in batches] == [0, 0, 0, 1, 1] and [b.last_of_epoch for b in batches] == [False, False, True, False, False]
    assert torch.equal(batches[4].images, make_loader().batch(4).images)


def test_labels_of_unlabelled_rows_are_never_read():
    store = make_store(SHAPES)
    begin = int(store.label_offsets[7])
    poisoned = store.labels.copy()
    poisoned[begin:] = 99
    offsets = np.where(np.arange(24) < 7, store.label_offsets, -1)
    other = Store(store.names, store.pixels, poisoned[:begin], store.shapes, store.offsets, offsets, 1, "RAM", 0)
    for t in range(6):
        equal(make_loader(store).batch(t), make_loader(other).batch(t))


def test_labelled_case_without_label_is_refused():
    with pytest.raises(UserError, match="image0"):
        make_loader(make_store(SHAPES, labeled=False))


def test_ranks_share_the_same_batch():
    whole = make_loader(batch_size=8, labeled_bs=4).batch(2)
    parts = [make_loader(batch_size=8, labeled_bs=4, rank=r, world=2).batch(2) for r in range(2)]
    assert torch.equal(torch.cat([p.labels for p in parts]), whole.labels)
    assert torch.equal(torch.cat([p.labeled for p in parts] + [p.unlabeled for p in parts]), whole.images)
    assert parts[0].shared_rng.random() == parts[1].shared_rng.random() == whole.shared_rng.random()
    own = [part.rng.random() for part in parts]  # noise must not repeat across processes
    assert own[0] == whole.rng.random() != own[1]
    with pytest.raises(UserError, match="multiples of 2"):
        make_loader(world=2)


def test_labeled_only():
    loader = make_loader(labeled_only=True, batch_size=4)
    sizes = [(len(b.images), b.n_labeled, b.last_of_epoch) for _, b in loader.batches(0, 4)]
    assert sizes == [(4, 4, False), (3, 3, True)] * 2
    assert sorted(loader.batch(0).cases + loader.batch(1).cases) == sorted(loader.store.names[:7])


def test_errors_of_the_thread_name_the_cases():
    loader = make_loader()

    def broken(*_):
        raise RuntimeError("broken kernel")

    loader.augmenter.geometry = broken
    with pytest.raises(RuntimeError, match="broken kernel") as caught:
        list(loader.batches(0, 3))
    assert "image" in caught.value.__notes__[0] and "batch 0" in caught.value.__notes__[0]


def test_leaving_early_ends_the_thread():
    import threading

    loader = make_loader()
    for t, _ in loader.batches(0, 10**6):
        if t == 2:
            break
    assert not [thread for thread in threading.enumerate() if thread.name == "loader" and thread.is_alive()]
    assert loader.wait_seconds >= 0


class Shifts:
    """A policy that adds a number drawn from [0, reach), and knows for which reach it was asked."""

    def __init__(self):
        self.reach = 1

    def sample(self, rng):
        return self.reach + rng.random()

    def apply(self, images, labels, plans):
        moved = torch.tensor(plans, dtype=torch.float32)[:, None, None, None]
        return images + moved, labels + 1, images - moved


def test_policy_is_not_asked_across_the_end_of_an_epoch():
    policy = Shifts()
    loader = make_loader(policy=policy, recipe="none")
    plain = make_loader(recipe="none")
    for _, batch in loader.batches(1, 9):
        assert [int(plan) for plan in batch.plans] == [1 + batch.epoch] * 8
        expected = plain.batch(batch.step)
        plans = torch.tensor(batch.plans, dtype=torch.float32)[:, None, None, None]
        torch.testing.assert_close(batch.images, expected.images + plans)
        torch.testing.assert_close(batch.strong, expected.images - plans)
        assert torch.equal(batch.labels, expected.labels + 1)
        if batch.last_of_epoch:
            policy.reach += 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_gpu_gives_the_same_batches():
    host, mixed, device = make_loader(), make_loader(device="cuda"), make_loader(make_store(SHAPES, device="cuda"), device="cuda")
    for (_, a), (_, b), (_, c) in zip(host.batches(0, 6), mixed.batches(0, 6), device.batches(0, 6)):
        assert b.images.is_cuda and c.labels.is_cuda
        for other in (b, c):
            assert torch.equal(a.images, other.images.cpu()) and torch.equal(a.labels, other.labels.cpu())


def test_maps_are_warped_with_their_images():
    """A map that holds the labels is the labels, in every row, under every recipe and implementation."""
    for shapes, patch, dtype, recipe in ((SHAPES, (16, 16), np.float32, "rot_flip"), (SHAPES, (16, 16), np.uint8, "simeps_neu"),
                                         ([(12, 10, 9)] * 24, (8, 8, 8), np.float32, "rot_flip")):
        store = make_store(shapes, dtype=dtype)
        begins = np.where(np.arange(24) == 3, -1, store.label_offsets)
        store = replace(store, maps={"again": (store.labels, store.label_offsets), "some": (store.labels.astype(np.float32), begins)})
        maps = {"again": Fill(255, 255, 0), "some": Fill(7, 8, 9), "inside": Fill(1, 0, 0)}
        rows, drawn = np.arange(24), draw(RECIPES[recipe], np.random.default_rng(0), 24, len(patch))
        made = {}
        for backend in ("numba", "torch"):
            augmenter = Augmenter(store, recipe, patch, threads=1, backend=backend)
            _, labels = augmenter(rows, 24, drawn)
            warped = {name: augmenter.map(name, rows, drawn, fill) for name, fill in maps.items()}
            assert warped["again"].dtype == torch.float32 and torch.equal(warped["again"].long(), labels)
            outside = warped["inside"] == 0
            has = torch.arange(24) != 3
            expected = torch.where(outside, 9, labels)
            assert torch.equal(warped["some"][has].long(), expected[has]), "where it has the map"
            assert torch.equal(warped["some"][3].long(), torch.where(outside[3], 8, 7)), "where it has none"
            made[backend] = warped
        assert all(torch.equal(made["numba"][name], made["torch"][name]) for name in maps)


def test_further_views_and_further_draws_of_the_unlabelled_images():
    plain, batch = make_loader().batch(3), make_loader(views=2, draws=2, maps={"inside": Fill(1, 0, 0)}).batch(3)
    assert torch.equal(plain.images, batch.images), "what is asked for besides changes nothing"
    (view,), (mate,) = batch.views, batch.mates
    assert view.cases == batch.cases[batch.n_labeled:] and not torch.equal(view.images, batch.unlabeled)
    assert mate.images.shape == view.images.shape == batch.unlabeled.shape and mate.cases != view.cases
    assert view.maps["inside"].shape == batch.unlabeled[:, 0].shape and batch.maps["inside"].shape == batch.images[:, 0].shape
    shares = [make_loader(batch_size=8, labeled_bs=4, views=2, draws=2, rank=r, world=2).batch(1) for r in range(2)]
    whole = make_loader(batch_size=8, labeled_bs=4, views=2, draws=2).batch(1)
    for kind in ("views", "mates"):
        assert torch.equal(torch.cat([getattr(share, kind)[0].images for share in shares]), getattr(whole, kind)[0].images)
