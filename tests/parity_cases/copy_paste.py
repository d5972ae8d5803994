"""BCP and ABD: boxes, mixtures, displaced views, and each script's losses with stub networks that return golden logits."""
from __future__ import annotations

from typing import Any

import numpy as np
import torch
import train_ABD
import train_ABDCrossTeaching
import train_BCP
from parity_tools import Computed, Golden, Parity, Stub, gradient
from torch import Tensor

from dataloaders.augmentation.copy_paste import paste_box
from dataloaders.augmentation.displacement import displaced, unsure_into_sure
from dataloaders.batches.loader import Batch
from engine.schedules import ramp
from losses import cross_entropy
from losses.mixtures import labeled_mixture_loss, mixture_loss
from losses.supervised import DICE


class Legacy:
    """NumPy's legacy generator under the name that ours has."""

    def __init__(self, seed: int):
        self.integers = np.random.RandomState(seed).randint


def masks(golden: Golden) -> Computed:
    out: Computed = {}
    for kind in golden.endings("out_zero_box_"):
        sides = golden[f"par_shape_{kind}"].tolist()[2:]
        boxes = [paste_box(Legacy(seed), sides).numpy() for seed in golden["par_seeds"].tolist()]  # type: ignore[arg-type]
        places = [np.argwhere(box) for box in boxes]
        out[f"out_zero_box_{kind}"] = np.stack([np.concatenate([place.min(0), place.max(0) + 1]) for place in places])
        if kind != "la":
            out[f"out_mask_{kind}"] = np.stack([~box for box in boxes]).astype(np.uint8)
    return out


def batch_of(labeled: Tensor, unlabeled: Tensor, labels: Tensor) -> Batch:
    rows = torch.cat([labeled, unlabeled])
    return Batch(rows, labels, 0, 0, False, tuple(map(str, range(len(rows)))), np.random.default_rng(0))


def pair(golden: Golden, name: str, order: str = "ab") -> Tensor:
    """The file's arrays a and b of this name, one behind the other."""
    return torch.cat([golden.tensor(name.format(letter)) for letter in order])


def parts(logits: Tensor, outside: Tensor, inside: Tensor, box: Tensor, weights: tuple[float, float], dice: str) -> tuple[Tensor, Tensor]:
    """(Dice, cross-entropy) of a mixture: the difference between the method's loss and its cross-entropy is its Dice."""
    pairs = zip(weights, (outside.masked_fill(box, 255), inside.masked_fill(~box, 255)))
    ce = sum((weight * cross_entropy(logits, labels) for weight, labels in pairs), torch.zeros(()))
    return 2 * mixture_loss(logits, outside, inside, box, weights, dice) - ce, ce


def bcp_step(golden: Golden, kind: str, order: str, dice: str, logits: tuple[Tensor, Tensor]) -> tuple[Any, Stub]:
    """The second stage of the script; `order` says which of the file's halves comes first."""
    inside = ~golden.tensor("in_mask").bool()
    batch = batch_of(pair(golden, "in_image_labeled_{}", order), pair(golden, "in_image_unlabeled_{}", order),
                     pair(golden, "in_labels_{}", order))
    options = train_BCP.Method(**{**train_BCP.PRESETS[kind], "u_weight": golden["par_u_weight"].item()})
    assert options.part_dice == dice
    student = Stub(*logits)
    teacher = Stub(*(golden.tensor(f"in_teacher_logits_{letter}") for letter in order))
    return train_BCP.losses(student, teacher, batch, inside, options), student


def pretraining(golden: Golden, order: str, dice: str) -> tuple[Any, Stub, Tensor]:
    inside, logits = ~golden.tensor("in_mask").bool(), golden.leaf("in_pretrain_logits")
    network = Stub(logits)
    images, labels = pair(golden, "in_image_labeled_{}", order), pair(golden, "in_labels_{}", order)
    return labeled_mixture_loss(network, images, labels, inside, dice), network, logits


def acdc(golden: Golden) -> Computed:
    """The file's `unl` has u outside and a inside, its `l` b outside and v inside, as the script has it."""
    unl, l = golden.leaf("in_student_logits_unl"), golden.leaf("in_student_logits_l")  # noqa: E741 - the file's name
    inside, w = ~golden.tensor("in_mask").bool(), golden["par_u_weight"].item()
    terms, student = bcp_step(golden, "2D", "ab", "batch", (unl, l))
    q_u, q_v = terms["pseudo_labels"].chunk(2)
    y_a, y_b = golden.tensor("in_labels_a"), golden.tensor("in_labels_b")
    out: Computed = {
        "out_pseudo_labels_a": q_u.to(torch.uint8), "out_pseudo_labels_b": q_v.to(torch.uint8),
        "out_input_unl": student.seen[0], "out_input_l": student.seen[1], "out_total": terms["total"],
    }
    out["out_unl_dice"], out["out_unl_ce"] = parts(unl, q_u, y_a, inside, (w, 1), "batch")
    out["out_l_dice"], out["out_l_ce"] = parts(l, y_b, q_v, inside, (1, w), "batch")
    out["grad_total_unl"], out["grad_total_l"] = gradient(terms["total"], unl, l)

    first, network, logits = pretraining(golden, "ba", "batch")  # b inside
    out |= {"out_pretrain_input": network.seen[0], "out_pretrain_labels": first["mixed_labels"].to(torch.uint8),
            "out_pretrain_total": first["total"], "grad_pretrain": gradient(first["total"], logits)[0]}
    out["out_pretrain_dice"], out["out_pretrain_ce"] = parts(logits, y_a, y_b, inside, (1, 1), "batch")

    hard, labels, box = golden.leaf("in_hard_logits"), golden.tensor("in_hard_labels"), ~golden.tensor("in_hard_mask").bool()
    out["out_hard_dice"], out["out_hard_ce"] = parts(hard, labels, labels, box, (1, w), "batch")
    (out["grad_hard_dice"],) = gradient(out["out_hard_dice"], hard)
    return out


def la(golden: Golden) -> Computed:
    """The roles are the reverse: its `l` has a outside and the unlabelled a inside, its `u` the unlabelled b outside and b inside."""
    l, u = golden.leaf("in_student_logits_l"), golden.leaf("in_student_logits_u")  # noqa: E741 - the file's name
    terms, student = bcp_step(golden, "3D", "ba", "sample", (u, l))
    q_b, q_a = terms["pseudo_labels"].chunk(2)
    labels_u, labels_l = terms["mixed_labels"].chunk(2)
    out: Computed = {
        "out_pseudo_labels_a": q_a.to(torch.uint8), "out_pseudo_labels_b": q_b.to(torch.uint8),
        "out_input_u": student.seen[0], "out_input_l": student.seen[1],
        "out_labels_u": labels_u.to(torch.uint8), "out_labels_l": labels_l.to(torch.uint8),
        "out_loss_u": terms["labeled_inside"], "out_loss_l": terms["labeled_outside"], "out_total": terms["total"],
    }
    out["grad_total_l"], out["grad_total_u"] = gradient(terms["total"], l, u)

    first, _, logits = pretraining(golden, "ba", "sample")
    mixed = first["mixed_labels"]
    out |= {"out_pretrain_labels": mixed.to(torch.uint8), "out_pretrain_total": first["total"],
            "out_pretrain_dice": DICE["sample"](logits, mixed), "out_pretrain_ce": cross_entropy(logits, mixed)}
    (out["grad_pretrain"],) = gradient(first["total"], logits)

    hard, labels, box = golden.leaf("in_hard_logits"), golden.tensor("in_hard_labels"), ~golden.tensor("in_hard_mask").bool()
    out["out_hard_loss"] = mixture_loss(hard, labels, labels, box, (1, golden["par_u_weight"].item()), "sample")
    (out["grad_hard_loss"],) = gradient(out["out_hard_loss"], hard)
    return out


def abd_bcp(golden: Golden) -> Computed:
    """The variant that is the published code. Images that are the same in both halves are what their mixture is."""
    grid = tuple(golden["par_grid"].tolist())
    given = {"grid": grid, "largest_component": False, "candidates": golden["par_candidates"].item(),
             "u_weight": golden["par_u_weight"].item()}
    options = train_ABD.Method(**{**train_ABD.PRESETS["2D"], **train_ABD.PRESETS["published_code"], **given})
    clean = {k: golden.leaf(f"in_logits_{k}") for k in (1, 2)}
    moved = {k: golden.leaf(f"in_logits_displaced_{k}") for k in (1, 2)}
    models = [Stub(*clean[k].chunk(2), moved[k]) for k in (1, 2)]
    said = [torch.nn.functional.one_hot(golden.tensor(f"in_pseudo_{letter}"), 4).movedim(-1, 1).float() for letter in "ab"]
    views = [golden.tensor(f"in_images_{k}") for k in (1, 2)]
    labels = pair(golden, "in_labels_{}")
    plain = torch.from_numpy(golden["in_coin"] >= 1 - options.plain)
    inside = ~golden.tensor("in_mask").bool()
    terms = train_ABD.losses(*models, Stub(*said), batch_of(views[0], views[0], labels), torch.cat([views[1], views[1]]), labels, inside,
                             plain, options)

    names = {"out_pseudo_1": "pseudo_1", "out_pseudo_2": "pseudo_2", "out_pseudo_displaced_1": "displaced_1",
             "out_pseudo_displaced_2": "displaced_2"}
    out: Computed = {name: terms[ours] for name, ours in names.items()} | {"out_images_displaced": terms["displaced_images"][:, 0]}
    total = terms["bcp_1"] + terms["pseudo_1"] + terms["displaced_1"]
    out |= {"out_total_1": total, "grad_total_1": gradient(total, clean[1])[0]}
    unl, l = clean[1].chunk(2)  # noqa: E741 - the file's name
    w, (q_u, q_v), (y_a, y_b) = options.u_weight, terms["pseudo_labels"][:4].chunk(2), labels.chunk(2)
    out["out_unl_dice_1"], out["out_unl_ce_1"] = parts(unl, q_u, y_a, inside, (w, 1), "unmasked")
    out["out_l_dice_1"], out["out_l_ce_1"] = parts(l, y_b, q_v, inside, (1, w), "unmasked")
    together = sum(terms[ours] for ours in names.values())
    slopes = gradient(together, clean[1], clean[2], moved[1], moved[2])
    return out | dict(zip(("grad_pseudo_1", "grad_pseudo_2", "grad_pseudo_displaced_1", "grad_pseudo_displaced_2"), slopes))


def abd_cross_teaching(golden: Golden) -> Computed:
    n, grid = golden["par_labeled_bs"].item(), tuple(golden["par_grid"].tolist())
    options = train_ABDCrossTeaching.Method(grid=grid, candidates=golden["par_candidates"].item())
    clean, moved_l, moved_u = ({k: golden.leaf(f"in_logits_{kind}{k}") for k in (1, 2)} for kind in ("", "supervised_", "displaced_"))
    weak, strong = golden.tensor("in_images"), golden.tensor("in_images_strong")
    labels = [golden.tensor(name)[:n] for name in ("in_labels", "in_labels_strong")]
    which = torch.from_numpy(golden["in_coin"] < options.displaced_share)

    def at(step: int) -> dict[str, Tensor]:
        weight = options.consistency * ramp(step, options.consistency_rampup)
        models = [Stub(clean[k], moved_l[k], moved_u[k]) for k in (1, 2)]
        weight_l = options.displaced_weight if step <= options.displaced_until else 0.0
        return train_ABDCrossTeaching.losses(*models, batch_of(weak[:n], weak[n:], labels[0]), strong, labels[1], which, weight, weight_l,
                                             options) | {"weight": torch.tensor(weight, dtype=torch.float64)}

    step = golden["par_iter"].item()
    terms, later = at(step), at(options.displaced_until + 1)
    out: Computed = {"out_weight": terms["weight"], "out_total": terms["total"], "out_total_after_20000": later["total"],
                     "out_images_displaced": terms["displaced_images"][:, 0]}
    for k in (1, 2):
        names = {"out_supervised": "supervised", "out_supervised_displaced": "displaced_labeled", "out_pseudo": "pseudo",
                 "out_pseudo_displaced": "displaced"}
        out |= {f"{name}_{k}": terms[f"{ours}_{k}"] for name, ours in names.items()}
        out[f"out_total_{k}"] = (terms[f"supervised_{k}"] + options.displaced_weight * terms[f"displaced_labeled_{k}"]
                                 + terms["weight"].float() * (terms[f"pseudo_{k}"] + terms[f"displaced_{k}"]))
        slopes = gradient(terms["total"], clean[k], moved_l[k], moved_u[k])
        out |= dict(zip((f"grad_total_{k}", f"grad_total_supervised_{k}", f"grad_total_displaced_{k}"), slopes))
    moves = unsure_into_sure(clean[1][:n], clean[2][:n], grid)
    out["out_images_supervised"] = displaced(weak[:n], strong[:n], moves, grid, which)[:, 0]
    out["out_labels_supervised"] = displaced(labels[0][:, None], labels[1][:, None], moves, grid, which)[:, 0].to(torch.uint8)
    return out


FILES = {
    "bcp_masks": Parity(masks),
    "bcp_acdc": Parity(acdc, tolerances={"grad_hard_dice": 1e-4}),
    "bcp_la": Parity(la, tolerances={"grad_hard_loss": 1e-4}),
    "abd_bcp_2d": Parity(abd_bcp),
    "abd_cross_teaching_2d": Parity(abd_cross_teaching),
}
