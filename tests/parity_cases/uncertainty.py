"""CDMA, and IIU with the head of its network, its instances, its schedules and its teacher."""
from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import torch
import train_CDMA
import train_IIU
from parity_tools import Computed, Golden, Parity, Stub, drive, golden_batch, gradient
from torch import Tensor, nn

from engine.schedules import SCHEDULES
from losses import contested, eased_mse
from losses.overlap import flat_dice_loss
from losses.uncertainty import instance_variance, instances_of
from networks import average_weights, risen_decay
from networks.perturbations import feature_dropout, feature_noise
from networks.pg_fanet import DilatedSum

HEADS = (1, 2, 3)


def cdma(golden: Golden) -> Computed:
    n, labels = golden["par_labeled_bs"].item(), golden.tensor("in_labels")
    logits = [golden.leaf(f"in_logits_{k}") for k in HEADS]
    options = train_CDMA.Method(model="unet_cdma", max_iterations=150, temperature=golden["par_temperature"].item(),
                                consistency=golden["par_consistency"].item())
    batches = [golden_batch(labels[:n], len(labels) - n, epoch) for epoch in (14, 15)]
    run = drive(train_CDMA, options, {"network": Stub(tuple(logits))}, batches)
    out: Computed = {}
    for step in run.steps:
        out |= {f"out_{name}_{step.step}": step.terms[name] for name in ("unsupervised", "total")}
    terms = run.steps[-1].terms
    weighted = options.consistency * terms["entropy"]
    out |= {f"out_{name}": terms[name] for name in ("supervised", "distillation", "entropy")} | {"out_entropy_weighted": weighted}
    for name, value in (("distillation", terms["distillation"]), ("entropy_weighted", weighted), ("total", terms["total"])):
        out |= {f"grad_{name}_{k}": g for k, g in zip(HEADS, gradient(value, *logits))}
    factors = sorted({train_CDMA.rate_of(name) for name in ("backbone.a.weight", "backbone.a.bias", "a.weight", "a.bias")})
    out["out_lr"] = np.array([[SCHEDULES["quarters"](epoch, 1e-3, 150) * factor for factor in factors] for epoch in golden["in_epoch"]])
    return out


def consistency(golden: Golden) -> Computed:
    out: Computed = {}
    for end in ("", "_c4"):
        main, aux, teacher = golden.leaf(f"in_main{end}"), golden.leaf(f"in_aux{end}"), golden.tensor(f"in_teacher{end}")
        for start, by_disagreement in (("", False), ("masked_", True)):
            parts = train_IIU.agreement(main, aux, teacher, by_disagreement)
            found = parts["inter"] + parts["intra"] + (0 if by_disagreement else parts["shape"])
            out |= {f"out_{start}map{end}": found, f"out_{start}loss{end}": found.mean()}
            out |= dict(zip((f"grad_{start}main{end}", f"grad_{start}aux{end}"), gradient(found.mean(), main, aux)))
            out[f"out_shape_entropy{end}"] = parts["shape"]
        p, t = main.softmax(1), teacher.softmax(1)
        unsure = -t * (t + 1e-12).log()
        torch.testing.assert_close(eased_mse(p, t), (1 - unsure) ** 2 * (p - t) ** 2)
        assert contested(p, t).min() >= 0 and contested(p, t).max() <= 1
    return out


def head(golden: Golden) -> Computed:
    rates = sorted(int(rate) for rate in golden.endings("in_weight_"))
    features = golden.leaf("in_features")
    module = DilatedSum(features.shape[1], len(golden["in_bias_6"]), golden["par_rates_used"].item())
    for rate, layer in zip(rates, module.convolutions, strict=True):
        assert isinstance(layer, nn.Conv2d) and layer.dilation == (rate, rate)
        layer.load_state_dict({"weight": golden.tensor(f"in_weight_{rate}"), "bias": golden.tensor(f"in_bias_{rate}")})
    logits, aux, factor = module(features), golden.tensor("in_aux"), golden["in_threshold_factor"].item()
    with mock.patch.object(torch.Tensor, "uniform_", lambda self, *limits: golden.tensor("in_noise")):
        noise = feature_noise(aux, 0.3)
    return {"out_logits": logits, "grad_features": gradient((golden.tensor("in_weights") * logits).sum(), features)[0],
            "out_feature_dropout": feature_dropout(aux, (factor, factor)), "out_feature_noise": noise}


def schedule(golden: Golden) -> Computed:
    out: Computed = {}
    for kind in ("long", "odd", "short"):
        total = golden[f"par_iterations_{kind}"].item()
        rates = np.array([SCHEDULES["poly_warm"](int(step), 2.5e-4, total) for step in golden[f"in_iter_{kind}"]])
        out |= {f"out_backbone_{kind}": rates, f"out_rest_{kind}": train_IIU.PRESETS["published_code"]["rest_rate"] * rates}
    out["out_decay"] = np.array([risen_decay(int(step), 0.99) for step in golden["in_decay_step"]])
    epochs = golden["par_epochs"].item()
    options = train_IIU.Method(ramp="whole", passes="apart", max_iterations=epochs, consistency_rampup=float(epochs))
    logits = torch.zeros(1, 2, 4, 4)
    student = Perturbed((logits, logits), (logits, logits))
    batches = [golden_batch(torch.zeros(1, 4, 4, dtype=torch.long), 1, int(epoch)) for epoch in golden["in_epoch"]]
    run = drive(train_IIU, options, {"student": student}, batches, {"teacher": Stub(logits)})
    out["out_weight"] = np.array([step.arguments["weight"] for step in run.steps])
    for end, most in (("099", 0.99), ("03", 0.3)):
        names = {"0.weight": "weight", "1.running_mean": "running_mean", "1.running_var": "running_var",
                 "1.num_batches_tracked": "num_batches"}
        teacher, student_network = (nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2)) for _ in range(2))
        fill(teacher, {key: golden.tensor(f"in_teacher0_{name}_{end}") for key, name in names.items()})
        found: dict[str, list[Tensor]] = {key: [] for key in names}
        for step in range(len(golden[f"in_student_weight_{end}"])):
            fill(student_network, {key: golden.tensor(f"in_student_{name}_{end}")[step] for key, name in names.items()})
            average_weights(teacher, student_network, risen_decay(step, most), buffers=True)
            for key in names:
                found[key].append(teacher.state_dict()[key].clone())
        out |= {f"out_teacher_{name}_{end}": torch.stack(found[key]) for key, name in names.items()}
    return out


def fill(network: nn.Module, state: dict[str, Tensor]) -> None:
    """Puts these tensors where a network has them."""
    network.load_state_dict({**network.state_dict(), **state})


class Perturbed(Stub):
    """A student: called on labelled images, taken apart on unlabelled ones, with golden logits of two heads for each."""

    def __init__(self, labeled: tuple[Tensor, ...], unlabeled: tuple[Tensor, ...]):
        super().__init__(labeled)
        self.unlabeled = unlabeled

    def encode(self, images: Tensor) -> list[Tensor]:
        return [images]

    def decode(self, maps: list[Tensor]) -> list[Tensor]:
        return [maps[0], maps[0]]

    def head(self, features: list[Tensor]) -> tuple[Tensor, ...]:
        return self.unlabeled


def supervised(golden: Golden) -> Computed:
    labels, epochs = golden.tensor("in_labels"), golden["par_epochs"].item()
    labeled, unlabeled = ([golden.leaf(f"in_{name}{end}") for name in ("main", "aux")] for end in ("", "_unlabeled"))
    options: Any = train_IIU.Method(ramp="whole", passes="apart", dice="flat", variance_weight=1.0, max_iterations=epochs,
                                    consistency_rampup=float(epochs))
    batch = golden_batch(labels, len(unlabeled[0]), golden["par_epoch"].item())
    (step,) = drive(train_IIU, options, {"student": Perturbed(tuple(labeled), tuple(unlabeled))}, [batch],
                    {"teacher": Stub(golden.tensor("in_teacher_unlabeled"))}).steps
    terms, dice = step.terms, flat_dice_loss(labeled[0], labels)
    numbers, counts = instances_of(labels)
    variance = instance_variance(labeled[0].softmax(1), labels)
    out: Computed = {
        "out_instances": numbers, "out_instance_count": counts, "out_weight": step.arguments["weight"], "out_dice_main": dice,
        "out_segmentation": terms["supervised"], "out_variance": terms["variance"], "out_consistency": terms["consistency"],
        "out_total": terms["total"],
        "grad_dice_main": gradient(dice, labeled[0])[0], "grad_variance_main": gradient(variance, labeled[0])[0],
    }
    for name, of in (("segmentation", "supervised"), ("total", "total")):
        out |= dict(zip((f"grad_{name}_main", f"grad_{name}_aux"), gradient(terms[of], *labeled)))
    return out | dict(zip(("grad_total_main_unlabeled", "grad_total_aux_unlabeled"), gradient(terms["total"], *unlabeled)))


FILES = {
    "cdma": Parity(cdma, later=("out_plus_*", "grad_plus_*", "out_lr_plus"), tolerances={"grad_distillation_*": 5e-5}),
    "pgfanet_consistency": Parity(consistency, tolerances={"out_map*": (1e-5, 1e-6), "out_masked_map*": (1e-5, 1e-6), "grad_*": 5e-5}),
    "pgfanet_head": Parity(head, tolerances={"out_logits": (1e-5, 1e-5), "out_feature_noise": (1e-5, 1e-6)}),
    "pgfanet_schedule": Parity(schedule, later=("out_batches_per_epoch",), tolerances={"out_teacher_*": (1e-5, 1e-6)}),
    "pgfanet_supervised": Parity(supervised, tolerances={"grad_total_*_unlabeled": 5e-5}),
}
