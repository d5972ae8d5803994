"""BCP and ABD: what is pasted and displaced, who learns from whom, and runs of stages that are killed and go on.

The golden files are in parity_cases/copy_paste.py.
"""
from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import train_ABD
import train_ABDCrossTeaching
import train_BCP
from harness import Bench, metrics, outcome, together
from parity_cases.copy_paste import batch_of
from parity_tools import Stub, gradient
from torch import Tensor

from dataloaders.augmentation.copy_paste import paste_box
from dataloaders.augmentation.displacement import check_grid, cut, displaced, joined, sure_into_unsure, sureness, unsure_into_sure
from dataloaders.augmentation.strong_views import cutout_view
from dataloaders.catalog import DATA_SETS
from dataloaders.errors import UserError
from engine.monitor import Monitor
from losses import dice_loss, supervised_loss
from losses.mixtures import halves, labeled_mixture_loss, mixture_loss
from losses.overlap import sample_dice_loss
from losses.pseudo_labels import likeliest


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels_of(*shape: int, classes: int = 4, seed: int = 0) -> Tensor:
    return torch.randint(0, classes, shape, generator=torch.Generator().manual_seed(seed))


# Pasting


@pytest.mark.parametrize("sides, box", [((256, 256), (170, 170)), ((112, 112, 80), (74, 74, 53)), ((96, 96, 96), (64, 64, 64)),
                                        ((3, 2), (2, 1))])
def test_a_box_has_two_thirds_of_the_sides_and_never_touches_the_far_border(sides: tuple[int, ...], box: tuple[int, ...]) -> None:
    for seed in range(20):
        where = paste_box(rng(seed), sides).nonzero()
        assert tuple((where.amax(0) + 1 - where.amin(0)).tolist()) == box and len(where) == np.prod(box)
        assert all(end < side for end, side in zip((where.amax(0) + 1).tolist(), sides))


def test_an_odd_number_of_rows_has_halves_that_share_the_middle_one() -> None:
    assert [half.tolist() for half in halves(torch.arange(4))] == [[0, 1], [2, 3]]
    assert [half.tolist() for half in halves(torch.arange(3))] == [[0, 1], [1, 2]]
    assert [half.tolist() for half in halves(torch.arange(1))] == [[0], [0]]


def bcp(options: train_BCP.Method, *logits: Tensor, seen: Tensor | None = None) -> dict[str, Tensor]:
    """The second stage on four labelled and four unlabelled images; logits of the mixtures, then those of the teacher."""
    images = drawn(8, 1, 12, 9) if seen is None else seen
    box = paste_box(rng(), (12, 9))
    return train_BCP.losses(Stub(*logits[:2]), Stub(*logits[2:]), batch_of(images[:4], images[4:], labels_of(4, 12, 9)), box, options)


def test_every_part_of_a_mixture_comes_from_its_own_image_and_has_its_label() -> None:
    images = torch.arange(8.0).view(8, 1, 1, 1).expand(8, 1, 12, 9)
    terms = bcp(train_BCP.Method(passes="apart"), *(drawn(2, 4, 12, 9, seed=k) for k in range(4)), seen=images)
    box = paste_box(rng(), (12, 9))
    first, second = terms["mixed_images"][:2, 0], terms["mixed_images"][2:, 0]
    assert first[:, box].unique(dim=1).flatten().tolist() == [0, 1] and first[:, ~box].unique(dim=1).flatten().tolist() == [4, 5]
    assert second[:, box].unique(dim=1).flatten().tolist() == [6, 7] and second[:, ~box].unique(dim=1).flatten().tolist() == [2, 3]
    labels, said = labels_of(4, 12, 9), terms["pseudo_labels"]
    assert torch.equal(terms["mixed_labels"], torch.where(box, torch.cat([labels[:2], said[2:]]), torch.cat([said[:2], labels[2:]])))


def test_an_image_pasted_into_itself_is_itself() -> None:
    image, labels = drawn(1, 1, 12, 9), labels_of(1, 12, 9)
    terms = labeled_mixture_loss(Stub(drawn(1, 4, 12, 9)), image, labels, paste_box(rng(), (12, 9)), "batch")
    assert torch.equal(terms["mixed_images"], image) and torch.equal(terms["mixed_labels"], labels)


@pytest.mark.parametrize("dice", ["batch", "sample", "unmasked"])
def test_without_a_box_only_the_outer_labels_count(dice: str) -> None:
    logits, outside, inside = drawn(2, 4, 12, 9), labels_of(2, 12, 9), labels_of(2, 12, 9, seed=1)
    none = torch.zeros(12, 9, dtype=torch.bool)
    found = mixture_loss(logits, outside, inside, none, (1, 0), dice)
    torch.testing.assert_close(found, supervised_loss(logits, outside, "sample" if dice == "sample" else "batch"))
    assert mixture_loss(logits, outside, inside, none, (0, 1), "batch") == 0


def test_equal_labels_and_weights_give_the_sum_of_two_masked_means() -> None:
    logits, labels, box = drawn(2, 4, 12, 9), labels_of(2, 12, 9), paste_box(rng(), (12, 9))
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    ce = each[:, box].mean() + each[:, ~box].mean()
    p, y = logits.softmax(1), torch.nn.functional.one_hot(labels, 4).movedim(-1, 1)
    dice = sum((1 - 2 * (p * y * m).sum((0, 2, 3)) / ((p**2 + y) * m).sum((0, 2, 3))).mean() for m in (box, ~box))
    torch.testing.assert_close(mixture_loss(logits, labels, labels, box, (1, 1), "batch"), (ce + dice) / 2)


def test_pseudo_labels_count_by_their_weight_and_ignored_pixels_nowhere() -> None:
    logits = [drawn(2, 4, 12, 9, seed=k) for k in range(4)]
    without, half, whole = (bcp(train_BCP.Method(passes="apart", u_weight=w), *logits)["total"] for w in (0.0, 0.5, 1.0))
    torch.testing.assert_close(half, (without + whole) / 2)
    labels = labels_of(2, 12, 9)
    ignored = torch.full_like(labels, 255)
    assert mixture_loss(logits[0], ignored, ignored, paste_box(rng(), (12, 9)), (1, 1), "sample") == 0
    half_ignored = torch.cat([labels[:1], ignored[1:]])
    torch.testing.assert_close(sample_dice_loss(logits[0], half_ignored), sample_dice_loss(logits[0][:1], labels[:1]))


def test_the_teacher_gets_no_gradient_and_the_student_of_every_mixture() -> None:
    logits = [drawn(2, 4, 12, 9, seed=k).requires_grad_() for k in range(4)]
    slopes = gradient(bcp(train_BCP.Method(passes="apart"), *logits)["total"], *logits)
    assert slopes[0].any() and slopes[1].any() and not slopes[2].any() and not slopes[3].any()


def test_the_largest_component_of_each_class_is_kept() -> None:
    labels = torch.zeros(2, 8, 8, dtype=torch.long)
    labels[0, :2, :2], labels[0, 5, 5], labels[0, 6:, :2], labels[0, 0, 7] = 1, 1, 2, 2
    labels[0, 2, 2] = 1  # touches at a corner
    logits = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    kept = labels.clone()
    kept[0, 5, 5] = kept[0, 0, 7] = 0
    assert torch.equal(likeliest(logits, True), kept) and torch.equal(likeliest(logits), labels)
    assert likeliest(logits, True).dtype == torch.int64
    assert not likeliest(logits, True)[1].any(), "no foreground, no component"


# Displacing


@pytest.mark.parametrize("sides, grid", [((12, 16), (3, 4)), ((8, 12, 4), (2, 3, 1))])
def test_patches_are_put_together_again_to_the_bit(sides: tuple[int, ...], grid: tuple[int, ...]) -> None:
    x = drawn(2, 3, *sides)
    patches = cut(x, grid)
    assert patches.shape == (2, np.prod(grid), 3, np.prod(sides) // np.prod(grid)) and torch.equal(joined(patches, grid, sides), x)
    second = x[:, :, :4, 4:8] if len(sides) == 2 else x[:, :, :4, 4:8, :4]
    assert torch.equal(patches[:, 1], second.flatten(2))


@pytest.mark.parametrize("sides, grid", [((12, 16), (3, 4)), ((8, 12, 4), (4, 3, 2))])
def test_one_patch_of_each_view_changes_into_one_of_the_other(sides: tuple[int, ...], grid: tuple[int, ...]) -> None:
    logits, views = (drawn(3, 4, *sides, seed=1), drawn(3, 4, *sides, seed=2)), (drawn(3, 1, *sides, seed=3), drawn(3, 1, *sides, seed=4))
    which = torch.tensor([True, False, True])
    for moves in (sure_into_unsure(*logits, grid, 4), unsure_into_sure(*logits, grid)):
        after = cut(displaced(*views, moves, grid, which), grid).chunk(2)
        before = [cut(view, grid) for view in views]
        for k, (into, source) in enumerate(((moves.into1, moves.from2), (moves.into2, moves.from1))):
            changed = (after[k] != before[k]).any(3).any(2)
            assert changed.sum(1).tolist() == [1, 0, 1] and changed[0].nonzero() == into[0] and changed[2].nonzero() == into[2]
            assert torch.equal(after[k][0, into[0]], before[1 - k][0, source[0]])


def test_the_patch_that_is_given_is_sure_and_most_alike() -> None:
    """A row of patches of two classes: the second network is sure of all but the first, of the last two of class 1."""
    first, second = torch.zeros(1, 2, 4, 16), torch.zeros(1, 2, 4, 16)
    first[:, 0, :, 4:] = 5.0
    first[:, 1, :, :4] = 0.5  # least sure, rather class 1
    second[:, 0, :, 4:8] = 9.0
    second[:, 1, :, 8:] = torch.tensor([6.0] * 4 + [7.0] * 4)
    moves = sure_into_unsure(first, second, (1, 4), 3)
    assert moves.into1 == 0 and moves.from2 == 2, "of three surest the one nearest in its classes"
    assert sure_into_unsure(first, second, (1, 4), 2).from2 == 3, "of two surest"
    assert sure_into_unsure(first, second, (1, 4), 3, torch.tensor([True])).from2 == sureness(second, (1, 4)).argmax() == 1
    least, most = unsure_into_sure(first, second, (1, 4)).from2, unsure_into_sure(first, second, (1, 4)).into1
    assert least == 0 and most in (1, 2, 3)


@pytest.mark.parametrize("grid", [(4,), (4, 4, 4), (5, 4), (0, 4)])
def test_a_grid_that_does_not_fit_is_refused(grid: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="cannot be cut into equal patches"):
        check_grid(grid, (64, 64))


@pytest.mark.parametrize("sides", [(32, 24), (16, 12, 10)])
def test_the_strong_view_is_background_where_it_is_cut_out(sides: tuple[int, ...]) -> None:
    images, labels = drawn(40, 1, *sides).abs() + 3, torch.ones(20, *sides, dtype=torch.long)
    strong, marked = cutout_view(images, labels, rng())
    assert strong.shape == images.shape and 4 <= (marked == 0).flatten(1).any(1).sum() <= 16
    again, _ = cutout_view(images, labels, rng())
    assert torch.equal(strong, again) and not torch.equal(strong, images)


def abd(plain: bool = False, seed: int = 0) -> tuple[dict[str, Tensor], list[Tensor]]:
    """ABD on four labelled and four unlabelled images; and the logits: f_1's and f_2's of mixtures and of displaced views."""
    logits = [drawn(4, 4, 12, 16, seed=seed + 1).requires_grad_(), drawn(4, 4, 12, 16, seed=seed + 2).requires_grad_(),
              drawn(8, 4, 12, 16, seed=seed + 3).requires_grad_(), drawn(8, 4, 12, 16, seed=seed + 4).requires_grad_()]
    models = [Stub(*logits[k].chunk(2), logits[2 + k]) for k in range(2)]
    images, labels = drawn(8, 1, 12, 16), labels_of(4, 12, 16)
    options = train_ABD.Method(passes="apart", grid=(3, 4))
    terms = train_ABD.losses(*models, Stub(*drawn(4, 4, 12, 16, seed=9).chunk(2)), batch_of(images[:4], images[4:], labels), images + 1,
                             labels, paste_box(rng(), (12, 16)), torch.full((8,), plain), options)
    return terms, logits


def test_of_two_networks_each_learns_from_the_other_and_from_displaced_views() -> None:
    terms, (one, two, moved_one, moved_two) = abd()
    assert terms["pseudo_1"] == dice_loss(one, two.argmax(1)) and terms["displaced_2"] == dice_loss(moved_two, moved_one.argmax(1))
    slopes = gradient(terms["pseudo_1"] + terms["displaced_1"], one, two, moved_one, moved_two)
    assert [bool(slope.any()) for slope in slopes] == [True, False, True, False]
    parts = [value for name, value in terms.items() if name != "total" and value.ndim == 0]
    torch.testing.assert_close(terms["total"], torch.stack(parts).sum())
    assert not torch.equal(abd(plain=True)[0]["displaced_images"], terms["displaced_images"])


def test_on_cross_teaching_labels_move_with_their_patches() -> None:
    logits = [drawn(4, 4, 12, 16, seed=k) for k in range(6)]
    models = [Stub(*logits[:3]), Stub(*logits[3:])]
    images, labels = drawn(4, 1, 12, 16), labels_of(2, 12, 16)
    batch, options = batch_of(images[:2], images[2:], labels), train_ABDCrossTeaching.Method(grid=(3, 4))

    def terms(which: bool, weight_l: float) -> dict[str, Tensor]:
        return train_ABDCrossTeaching.losses(*models, batch, images, labels, torch.full((2,), which), 0.0, weight_l, options)

    still, dropped = terms(False, 1.0), terms(True, 0.0)
    torch.testing.assert_close(still["displaced_labeled_1"], supervised_loss(logits[1], torch.cat([labels, labels])))
    assert terms(True, 1.0)["displaced_labeled_1"] != still["displaced_labeled_1"]
    torch.testing.assert_close(dropped["total"], dropped["supervised_1"] + dropped["supervised_2"])


# Runs

WORDS = ("--max_iterations", "6", "--pre_iterations", "5", "--val_every", "3", "--save_every", "2")


def test_a_run_that_is_killed_in_both_stages_goes_on_to_the_bit(bench: Bench) -> None:
    def killed(model: str, *faults: str):
        for fault in faults:
            assert bench.train("BCP", *WORDS, model=model, fault=fault).code == -signal.SIGKILL, fault
        end = bench.train("BCP", *WORDS, model=model)
        assert end.code == 0, end
        return end

    together([partial(killed, "whole"), partial(killed, "killed", "kill@step:3", "kill@step:5")])
    folders = [bench.run_folder(model) for model in ("whole", "killed")]
    assert outcome(folders[0]) == outcome(folders[1])
    status = json.loads((folders[0] / "status.json").read_text())
    assert [(stage["stage"], stage["steps"]) for stage in status["stages"]] == [("pretrain", 5), ("", 6)]
    assert_the_second_stage_starts_from_the_first(folders[0])


def assert_the_second_stage_starts_from_the_first(folder: Path) -> None:
    """What the last step of the first stage left is not what the teacher forgets at a rate of 0.99 a step."""
    first = torch.load(folder / "pretrain_best.pt", weights_only=True)["predictors"]
    (start,) = (found["state"] for found in first.values())
    kept = torch.load(folder / "last.pt", weights_only=True)["kept"]["teacher"]
    for name, weight in start.items():
        if weight.is_floating_point() and "running" not in name:
            assert (kept[name] - weight).abs().max() <= 0.06 * (weight.abs().max() + 1), name
    assert {line["stage"] for line in metrics(folder) if "stage" in line} == {"pretrain"}


def test_of_mixed_volumes_a_plane_is_shown() -> None:
    class Planes:
        def planes(self, predictor: object) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            return np.zeros((1, 6, 5), np.float32), np.zeros((6, 5), np.uint8), np.zeros((6, 5), np.uint8)

    shown: dict[str, tuple[int, ...]] = {}
    book = SimpleNamespace(picture=lambda name, image, step: shown.update({name: image.shape}))
    monitor = Monitor(book, DATA_SETS["Phantom3D"])  # type: ignore[arg-type]
    monitor._maps = {"mixed_images": torch.rand(2, 1, 6, 5, 4), "mixed_labels": torch.zeros(3, 6, 5, 4), "matrix": torch.rand(7, 7)}
    monitor.picture_of(lambda images: images, Planes(), 1)  # type: ignore[arg-type]
    assert {name: shown[name] for name in monitor._maps} == {"mixed_images": (6, 10), "mixed_labels": (6, 15), "matrix": (7, 7)}


def test_images_that_cannot_be_paired_are_refused(bench: Bench) -> None:
    end = bench.train("BCP", "--batch_size", "5")
    assert end.code == 2 and "--batch_size must be twice --labeled_bs" in end.err
    end = bench.train("ABD", "--grid", "5", "4")
    assert end.code == 2 and "cannot be cut into equal patches" in end.err
