"""DSSN: the script's own `main` with stub networks, in its two published forms."""
from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import torch
import train_DSSN
from parity_tools import Computed, Golden, Parity, Stub, drive, gradient
from torch import Tensor, nn

from dataloaders.augmentation import strong_views
from dataloaders.batches.loader import Batch, Rows
from losses import standardised, standardised_mse
from losses.pseudo_labels import class_aware


class Student(nn.Module):
    """Gives golden logits: to the weak rows as they are and with channels dropped twice, and to the strong views."""

    def __init__(self, weak: Tensor, dropped: list[Tensor], strong: Tensor):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.weak, self.strong = torch.cat([weak, *dropped]), strong
        self.seen = torch.zeros(0)

    def encode(self, images: Tensor) -> list[Tensor]:
        return [images]

    def decode(self, maps: list[Tensor]) -> Tensor:
        return maps[0]

    def head(self, features: Tensor) -> Tensor:
        assert len(features) == len(self.weak), "one pass for all that the decoder sees"
        return self.weak

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return self.strong


def batch_of(golden: Golden, step: int, epoch: int) -> Batch:
    labels = golden.tensor("in_labels")
    sides, n = labels.shape[1:], len(labels)
    pixels, mates = torch.zeros(2 * n, 3, *sides), torch.zeros(n, 3, *sides)
    pixels[n], mates[0] = golden.tensor("in_images_strong_1")[0], golden.tensor("in_images_strong_mix_1")[0]
    inside, inside_mix = ((golden.tensor(name) != 255).float() for name in ("in_ignore", "in_ignore_mix"))
    return Batch(pixels, labels, step, epoch, False, tuple("abcdef"), np.random.default_rng(0),
                 maps={"inside": torch.cat([torch.ones(n, *sides), inside])}, mates=(Rows(mates, {"inside": inside_mix}, tuple("ghi")),))


def step(golden: Golden, options: Any, strong: str = "12", dropped: str = "12", at: tuple[int, int] = (1000, 100)) -> tuple[Any, ...]:
    """(terms, leaves by name, what the student saw strongly, share kept of the teacher) of one step with these views, in this order."""
    leaves = {name: golden.leaf(f"in_logits_{name}") for name in ("labeled", "weak", "strong_1", "strong_2")}
    leaves |= {"feature_perturbed": golden.leaf("in_logits_feature_perturbed"),
               "feature_perturbed_2": golden.leaf("in_logits_feature_perturbed_2")}
    x = leaves["labeled"]
    perturbed = {"1": leaves["feature_perturbed"], "2": leaves["feature_perturbed_2"]}
    student = Student(torch.cat([x, leaves["weak"]]), [torch.cat([x.detach(), perturbed[k]]) for k in dropped],
                      torch.cat([leaves[f"strong_{k}"] for k in strong]))
    teacher = Stub(golden.tensor("in_logits_teacher_weak"), golden.tensor("in_logits_weak_mix"))
    boxes = iter([golden.tensor(f"in_box{k}").bool().unsqueeze(1) for k in strong])
    kept: list[float] = []
    with (mock.patch.object(train_DSSN, "frozen_copy", lambda network: teacher),
          mock.patch.object(strong_views, "cutmix_boxes", lambda *drawn, **where: next(boxes)),
          mock.patch.object(train_DSSN, "average_weights", lambda teacher, student, decay, buffers: kept.append(decay * buffers))):
        run = drive(train_DSSN, options, {"student": student}, [batch_of(golden, *at)])
    return run.steps[0].terms, leaves, student.seen, kept[0]


def dssn(golden: Golden, **published: Any) -> Computed:
    options = train_DSSN.Method(mix="other", dice="none", jitter=(0.0,) * 4, grey=0.0, blur=0.0, **published)
    terms, leaves, seen, _ = step(golden, options)
    first, second = leaves["strong_1"], leaves["strong_2"]
    strong, dropped = (standardised_mse(*pair).mean() for pair in (
        (first, second), (leaves["feature_perturbed"], leaves["feature_perturbed_2"])))
    grads = dict(zip(leaves, gradient(terms["total"], *leaves.values())))
    out: Computed = {
        "out_total": terms["total"], "out_loss_x": terms["supervised"],
        "out_loss_s_mse": strong, "out_loss_fp_mse": dropped, "out_images_cutmixed_1": seen[:1],
        "out_normalized_strong_1": standardised(first)[:1], "grad_s_mse_strong_1": gradient(strong, first)[0],
        "grad_fp_mse_first": gradient(dropped, leaves["feature_perturbed"])[0], "out_weak_grad_max": grads.pop("weak").abs().max().double(),
    } | {f"grad_total_{name}": value for name, value in grads.items()}
    for name, at in (("first", (0, 0)), ("second", (1, 0))):
        out[f"out_total_{name}_iteration"] = step(golden, options, at=at)[0]["total"]
    for k in "12":
        alone = step(golden, options, strong=k + k, dropped=k + k)[0]
        out |= {f"out_loss_s{k}": alone["strong"], "out_loss_fp" if k == "1" else "out_loss_fp2": alone["features"],
                f"out_pseudo_labels_{k}": alone["pseudo_labels"], f"out_selected_mix_{k}": alone["mask"]}
    out["out_selected_weak"] = class_aware(golden.tensor("in_logits_weak"))
    out["out_keep_rates"] = np.array([step(golden, options, at=at)[3] for at in ((0, 0), (1, 0), (7 * 40 + 3, 7))], np.float64)
    return {name: value for name, value in out.items() if name in golden.arrays}


def selection(golden: Golden) -> Computed:
    logits = golden.tensor("in_logits")
    largest = logits.softmax(1).amax((2, 3))
    return {"out_selected": class_aware(logits), "out_class_max": largest,
            "out_threshold": torch.where(largest > 0.92, 0.96 * largest, largest)}


LOOSE = {"out_normalized_strong_1": (1e-4, 1e-5)} | dict.fromkeys(
    ("grad_s_mse_strong_1", "grad_fp_mse_first", "grad_total_feature_perturbed*", "grad_total_strong_*"), 1e-4)
FILES = {
    "dssn_voc": Parity(dssn, tolerances=LOOSE),
    "dssn_city": Parity(lambda golden: dssn(golden, min_kept=200, selection="none", warmup_epochs=5), tolerances=LOOSE),
    "dssn_selection": Parity(selection),
}
