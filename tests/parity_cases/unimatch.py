"""UniMatch, its baseline and its medical branch: the script's own `main` with a stub network; and the cross-entropy of hard pixels."""
from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import torch
import train_UniMatch
from parity_tools import Computed, Golden, Parity, drive, gradient
from torch import Tensor, nn

from dataloaders.augmentation import strong_views
from dataloaders.batches.loader import Batch, Rows
from losses import ohem_cross_entropy


class Network(nn.Module):
    """Gives golden logits: to the mates as in a test, to the weak views with and without dropped channels, to the strong views."""

    def __init__(self, mates: Tensor, weak: Tensor, dropped: Tensor, strong: Tensor):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.logits, self.weak, self.dropped = [mates, strong], weak, dropped
        self.seen: list[tuple[Tensor, bool]] = []
        self.weakly = False

    def encode(self, images: Tensor) -> list[Tensor]:
        assert len(images) == len(self.weak) and self.training
        self.weakly = True
        return [images]

    def decode(self, maps: list[Tensor]) -> Tensor:
        return maps[0]

    def head(self, features: Tensor) -> Tensor:
        return torch.cat([self.weak, self.dropped]) if len(features) == 2 * len(self.weak) else self.weak

    def forward(self, images: Tensor) -> Tensor:
        if len(self.seen) == 1 and not self.weakly:
            return self.head(self.decode(self.encode(images)))
        self.seen.append((images, self.training))
        return self.logits[len(self.seen) - 1]


def step(golden: Golden, options: Any, order: tuple[str, ...]) -> tuple[Any, Tensor, dict[str, Tensor]]:
    """One step of the script whose strong views stand in this order: its terms, the strong views, and the leaves by name."""
    labels = golden.tensor("in_labels")
    sides, n = labels.shape[1:], len(labels)
    channels = 3 if "in_images_strong_1" in golden.arrays else 1
    pixels, mates = torch.zeros(2 * n, channels, *sides), torch.zeros(n, channels, *sides)
    inside = {name: torch.ones(n, *sides) for name in ("in_ignore", "in_ignore_mix")}
    if channels == 3:
        pixels[n], mates[0] = golden.tensor("in_images_strong_1")[0], golden.tensor("in_images_strong_mix_1")[0]
        inside = {name: (golden.tensor(name) != 255).float() for name in inside}
    batch = Batch(pixels, labels, 0, 0, False, tuple("abcdef"), np.random.default_rng(0),
                  maps={"inside": torch.cat([torch.ones(n, *sides), inside["in_ignore"]])},
                  mates=(Rows(mates, {"inside": inside["in_ignore_mix"]}, tuple("ghi")),))
    leaves = {name: golden.leaf(f"in_logits_{name}") for name in ("labeled", "weak", *(f"strong_{k}" for k in order))}
    if "in_logits_feature_perturbed" in golden.arrays:
        leaves["feature_perturbed"] = golden.leaf("in_logits_feature_perturbed")
    dropped = leaves.get("feature_perturbed", leaves["weak"].detach())
    network = Network(golden.tensor("in_logits_weak_mix"), torch.cat([leaves["labeled"], leaves["weak"]]),
                      torch.cat([leaves["labeled"].detach(), dropped]), torch.cat([leaves[f"strong_{k}"] for k in order]))
    boxes = iter([golden.tensor(f"in_box{k}").bool().unsqueeze(1) for k in order])
    with mock.patch.object(strong_views, "cutmix_boxes", lambda *drawn, **where: next(boxes)):
        run = drive(train_UniMatch, options, {"network": network}, [batch])
    (_, in_training), (views, _) = network.seen
    assert not in_training and network.training, "the partners are predicted as in a test"
    return run.steps[0].terms, views, leaves


def unimatch(golden: Golden, **given: Any) -> Computed:
    order = tuple(str(k) for k in (1, 2) if f"in_box{k}" in golden.arrays)
    plain = dict(mix="other", jitter=(0.0,) * 4, grey=0.0, blur=0.0, confidence=golden["par_conf_thresh"].item())
    options = train_UniMatch.Method(**plain, **given)
    out: Computed = {}
    for first in order:
        # Each strong view stands first once, since the pseudo-labels of the first are told.
        terms, views, leaves = step(golden, options, tuple(sorted(order, key=lambda k: k != first)))
        out[f"out_pseudo_labels_{first}"] = terms["pseudo_labels"]
        if first == "1":
            total = gradient(terms["total"], *leaves.values())
            by = dict(zip(leaves, total))
            out |= {"out_total": terms["total"], "out_loss_x": terms["supervised"]}
            out |= {f"grad_total_{name}": by[name] for name in leaves if name != "weak"}
            out |= {"out_weak_grad_max": by["weak"].abs().max().double(), "out_images_cutmixed_1": views[:1]}
            if len(order) == 1:
                out["out_loss_s1"] = terms["strong"]
            else:
                out["out_loss_fp"] = terms["features"]
    for k in order if len(order) == 2 else ():
        alone = train_UniMatch.Method(**plain, **given, views=1)
        out[f"out_loss_s{k}"] = step(golden, alone, (k,))[0]["strong"]
    return {name: value for name, value in out.items() if name in golden.arrays}


def ohem(golden: Golden) -> Computed:
    out: Computed = {}
    for kept in golden.endings("out_loss_min_kept_"):
        logits = golden.leaf("in_logits")
        loss = ohem_cross_entropy(logits, golden.tensor("in_labels"), int(kept))
        out |= {f"out_loss_min_kept_{kept}": loss, f"grad_min_kept_{kept}": gradient(loss, logits)[0]}
    return out


SCENES = dict(dice="none", unsupervised="ce")
LOOSE = {f"grad_total_{name}": 1e-4 for name in ("feature_perturbed", "strong_1", "strong_2")}
FILES = {
    "unimatch": Parity(lambda golden: unimatch(golden, **SCENES), tolerances=LOOSE),
    "unimatch_fixmatch": Parity(lambda golden: unimatch(golden, **SCENES, **train_UniMatch.PRESETS["cutmix_fixmatch"]), tolerances=LOOSE),
    "unimatch_medical": Parity(unimatch, tolerances=LOOSE),
    "ohem_ce": Parity(ohem),
}
