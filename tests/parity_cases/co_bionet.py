"""Co-BioNet on one batch, in the released and the repaired form, with the critics' own weights; and its schedules."""
from __future__ import annotations

from typing import Any

import numpy as np
import torch
import train_CoBioNet
from parity_tools import Computed, Golden, Parity, Stub, golden_batch, gradient
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy

from engine.schedules import SCHEDULES, ramp
from losses import plain_dice
from networks import build


def two_classes(logits: Tensor) -> Tensor:
    """Logits (B, 2, *sides) whose softmax has the sigmoid of one channel (B, 1, *sides)."""
    return torch.cat([torch.zeros_like(logits), logits], 1)


def critic(golden: Golden, k: int) -> nn.Module:
    """Critic k with the weights of the file."""
    network = build("point_critic_3D", num_classes=2)
    convolutions, norms = list(network)[::3], list(network)[1::3]
    with torch.no_grad():
        for layer, (convolution, norm) in enumerate(zip(convolutions, norms), 1):
            convolution.weight.copy_(golden.tensor(f"par_critic{k}_weight{layer}").view_as(convolution.weight))
            norm.weight.copy_(golden.tensor(f"par_critic{k}_scale{layer}"))
            norm.bias.copy_(golden.tensor(f"par_critic{k}_shift{layer}"))
    return network


def step(golden: Golden) -> Computed:
    labels, t = golden.tensor("in_labels"), golden["par_iter"].item()
    parts = {k: [golden.leaf(f"in_logits_{name}_{k}") for name in ("labeled", "unlabeled", "all")] for k in (1, 2)}
    critics = [critic(golden, k) for k in (1, 2)]

    def terms_of(**values: Any) -> dict[str, Any]:
        options = train_CoBioNet.Method(**{**train_CoBioNet.PRESETS["LA"], **values})
        assert (options.threshold, options.supervised_weight, options.adversarial_weight) == tuple(
            golden[f"par_{name}"].item() for name in ("threshold", "lambda", "mu"))
        weight = options.consistency * ramp(t + 1, options.consistency_rampup)
        models = [Stub(*(two_classes(z) for z in parts[k])) for k in (1, 2)]
        batch = golden_batch(labels, len(parts[1][1]), t)
        return train_CoBioNet.losses(models, critics, batch, weight, options) | {"weight": weight}

    released, repaired = terms_of(**train_CoBioNet.PRESETS["published_code"]), terms_of()
    out: Computed = {"out_weight": released["weight"]}
    for k, other in ((1, 2), (2, 1)):
        labeled, unlabeled, everything = parts[k]
        names = {"out_supervised": "supervised", "out_difference": "difference", "out_masked": "masked", "out_generator": "adversarial",
                 "out_critic": "critic"}
        out |= {f"{name}_{k}": released[f"{ours}_{k}"] for name, ours in names.items()}
        target, s = (labels[:, None] == 1).float(), labeled.sigmoid()
        out |= {f"out_bce_{k}": binary_cross_entropy(s, target), f"out_dice_{k}": plain_dice(s, target)}

        def total(terms: dict[str, Any], k: int = k) -> Tensor:
            unsupervised = terms[f"difference_{k}"] + terms[f"masked_{k}"] + 0.01 * terms[f"adversarial_{k}"]
            return terms[f"supervised_{k}"] + terms["weight"] * unsupervised

        out |= {f"out_total_{k}": total(released), f"out_repaired_total_{k}": total(repaired),
                f"out_repaired_masked_{k}": repaired[f"masked_{k}"], f"out_mask_{k}": released[f"trusted_{other}"].to(torch.uint8),
                f"out_critic_map_unlabeled_{k}": critics[k - 1](unlabeled.sigmoid()).sigmoid()}
        out |= {f"grad_total_{name}_{k}": gradient(released["total"], z)[0] for name, z in zip(("labeled", "unlabeled", "all"), parts[k])}
        out |= {f"grad_generator_all_{k}": gradient(released[f"adversarial_{k}"], everything)[0],
                f"grad_repaired_masked_{k}": gradient(repaired[f"masked_{k}"], unlabeled)[0],
                f"grad_repaired_difference_{k}": gradient(repaired[f"difference_{k}"], unlabeled)[0],
                f"grad_repaired_total_unlabeled_{k}": gradient(total(repaired), unlabeled)[0],
                f"out_cross_grad_max_{k}": torch.stack([g.abs().max() for g in gradient(total(repaired), *parts[other])]).max().double()}
        weights = [convolution.weight for convolution in list(critics[k - 1])[::3]]
        out |= {f"grad_repaired_critic{k}_weight{layer}": slope.flatten(1)
                for layer, slope in enumerate(gradient(repaired["critic"], *weights), 1)}
    torch.testing.assert_close(released["total"], out["out_total_1"] + out["out_total_2"])
    torch.testing.assert_close(repaired["total"], out["out_repaired_total_1"] + out["out_repaired_total_2"])
    out["out_no_gradient_of_difference"] = np.array(not released["difference_1"].requires_grad)
    out["out_released_critic_moves_none"] = np.array(train_CoBioNet.PRESETS["published_code"]["critics"] == "trained")
    return out


def schedules(golden: Golden) -> Computed:
    consistency, length, unit = golden["par_consistency"].tolist()
    base, wave = golden["par_base_lr"].item(), golden["par_cosine_epochs"].item()
    rates = range(len(golden["out_learning_rate_in_effect"]))
    return {"out_weight": [consistency * ramp(t + 1, length, int(unit)) for t in golden["in_iter"].tolist()],
            "out_learning_rate_in_effect": [SCHEDULES["cosine"](t, base, wave) for t in rates]}


FILES = {
    "cobionet_3d": Parity(step, later=("out_released_critic_moves_zero",), tolerances={
        "out_critic_map_unlabeled_*": (1e-4, 1e-5), "out_critic_*": (1e-4, 1e-7), "grad_total_all_*": 1e-4, "grad_generator_all_*": 1e-4,
        "grad_repaired_critic*": 1e-3}),
    "cobionet_schedules": Parity(schedules, tolerances={"out_learning_rate_in_effect": (1e-9, 1e-12)}),
}
