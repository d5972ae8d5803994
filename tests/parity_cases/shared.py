"""Losses that several methods share, schedules, averages of weights, and the order of samples."""
from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import torch
import train_Supervised
from parity_tools import Computed, Golden, Parity, Stub, drive, golden_batch, gradient
from torch import Tensor, nn

from dataloaders.batches.sampling import permutations, two_stream_epoch
from dataloaders.catalog import DATA_SETS
from dataloaders.layouts.acdc import AcdcSource
from dataloaders.splits.split import label_budget
from engine.schedules import SCHEDULES, cosine_rampdown, linear_rampup, poly, ramp, sigmoid_rampup
from engine.stage import ScheduledOptimizer
from losses import (
    cross_entropy,
    dice_loss,
    dice_per_class,
    focal_loss,
    plain_dice,
    sigmoid_kl,
    sigmoid_mse,
    softmax_dice,
    softmax_kl,
    softmax_mse,
    supervised_loss,
)
from networks import average_weights, ema_update


def dice(golden: Golden) -> Computed:
    out: Computed = {}
    for kind in golden.endings("in_logits_"):
        logits, labels = golden.leaf(f"in_logits_{kind}"), golden.tensor(f"in_labels_{kind}")
        loss = dice_loss(logits, labels)
        out |= {f"out_loss_{kind}": loss, f"out_per_class_{kind}": dice_per_class(logits.softmax(1), labels)}
        (out[f"grad_logits_{kind}"],) = gradient(loss, logits)
    logits = golden.leaf("in_logits_2d")
    loss = dice_loss(logits, golden.tensor("in_labels_2d"), golden.tensor("in_class_weight"))
    return out | {"out_loss_2d_weighted": loss, "grad_logits_2d_weighted": gradient(loss, logits)[0]}


def dice_binary(golden: Golden) -> Computed:
    logits, other, labels = golden.leaf("in_logits"), golden.leaf("in_other_logits"), golden.tensor("in_labels")
    squared = dice_loss(logits, labels, foreground_only=True)
    plain = plain_dice(logits.softmax(1)[:, 1], (labels == 1).float())
    between = softmax_dice(logits, other)
    first, second = gradient(between, logits, other)
    return {
        "out_squared": squared, "grad_squared": gradient(squared, logits)[0],
        "out_plain": plain, "grad_plain": gradient(plain, logits)[0],
        "out_softmax_dice": between, "grad_softmax_dice_first": first, "grad_softmax_dice_second": second,
    }


def focal(golden: Golden) -> Computed:
    labels, alpha = golden.tensor("in_labels"), golden.tensor("par_alpha")
    out: Computed = {}
    for name, gamma, weight, times in (("default", 2.0, None, 1), ("gamma3_sum", 3.0, None, labels.numel()), ("alpha", 2.0, alpha, 1)):
        logits = golden.leaf("in_logits")
        loss = focal_loss(logits, labels, gamma, weight) * times
        out |= {f"out_{name}": loss, f"grad_{name}": gradient(loss, logits)[0]}
    return out


def supervised(golden: Golden) -> Computed:
    out: Computed = {}
    for kind in golden.endings("in_logits_"):
        logits, labels = golden.leaf(f"in_logits_{kind}"), golden.tensor(f"in_labels_{kind}")
        run = drive(train_Supervised, train_Supervised.Method(), {"network": Stub(logits)}, [golden_batch(labels, 0)])
        loss, ce = run.steps[0].terms["total"], cross_entropy(logits, labels)
        out |= {f"out_ce_{kind}": ce, f"out_dice_{kind}": dice_loss(logits, labels), f"out_loss_{kind}": loss}
        out |= {f"grad_logits_{kind}": gradient(loss, logits)[0], f"grad_ce_{kind}": gradient(ce, logits)[0]}
    logits, labels = golden.leaf("in_logits_3d"), golden.tensor("in_labels_3d")
    loss = supervised_loss(logits, labels, "foreground")
    out |= {"out_la_dice": dice_loss(logits, labels, foreground_only=True), "out_la_loss": loss}
    return out | {"grad_la_logits": gradient(loss, logits)[0]}


def consistency(golden: Golden) -> Computed:
    out: Computed = {}
    for kind in golden.endings("in_student_"):
        student, teacher = golden.leaf(f"in_student_{kind}"), golden.leaf(f"in_teacher_{kind}")
        squared, kl = softmax_mse(student, teacher), softmax_kl(student, teacher)
        to_student, to_teacher = gradient(kl.mean(), student, teacher)
        found = {
            "out_mse_map": squared, "out_mse_mean": squared.mean(), "out_symmetric_mse": squared.mean(),
            "out_kl": kl.mean(), "out_kl_map_mean": kl.mean(), "out_kl_map_sum": kl.sum(),
            "out_mse_sigmoid_mean": sigmoid_mse(student, teacher).mean(), "out_kl_sigmoid": sigmoid_kl(student, teacher).mean(),
            "grad_mse_student": gradient(squared.mean(), student)[0], "grad_kl_student": to_student, "grad_kl_teacher": to_teacher,
        }
        out |= {f"{name}_{kind}": value for name, value in found.items()}
    return out


def ramps(golden: Golden) -> Computed:
    out: Computed = {}
    for function, times in ((sigmoid_rampup, "t"), (linear_rampup, "tpos"), (cosine_rampdown, "tcos")):
        for length in golden.endings(f"in_{times}_"):
            out[f"out_{function.__name__}_{length}"] = [function(t, int(length)) for t in golden[f"in_{times}_{length}"].tolist()]
    return out


def lr_schedules(golden: Golden) -> Computed:
    orders = {"set_before_increment": SCHEDULES["poly"], "set_after_increment": SCHEDULES["poly_next"]}
    out: Computed = {}
    for kind in (ending for ending in golden.endings("in_iter_") if ending != "step"):
        steps, base, total = golden[f"in_iter_{kind}"].tolist(), golden[f"par_base_{kind}"].item(), golden[f"par_max_{kind}"].item()
        out[f"out_poly_value_{kind}"] = [poly(base, t, total) for t in steps]
        for order, schedule in orders.items():
            out[f"out_in_effect_{order}_{kind}"] = [schedule(t, base, total) for t in steps]
    out["out_in_effect_step"] = [SCHEDULES["step"](t, 0.01, 6000) for t in golden["in_iter_step"].tolist()]

    n, epochs = golden["par_batches_per_epoch_unimatch"].item(), golden["par_epochs_unimatch"].item()
    lr, factor = golden["par_lr_unimatch"].item(), golden["par_lr_multi_unimatch"].item()
    groups = [{"params": [nn.Parameter(torch.zeros(1))]} for _ in range(2)]
    optimizer = ScheduledOptimizer(torch.optim.SGD(groups, lr), lr, "poly", [1.0, factor])
    rates = []
    for epoch, batch in zip(golden["in_epoch_unimatch"].tolist(), golden["in_batch_unimatch"].tolist()):
        optimizer.set_rate(epoch * n + batch + 1, n * epochs)
        rates.append([group["lr"] for group in optimizer.optimizer.param_groups])
    out["out_set_after_step_unimatch"], out["out_set_after_step_head_unimatch"] = np.transpose(rates)
    return out


def weights(golden: Golden) -> Computed:
    out: Computed = {}
    for kind in golden.endings("in_iter_"):
        maximum, rampup, unit = golden[f"par_{kind}"].tolist()
        maximum *= 5 if kind == "bcp_acdc" else 1  # what BCP logs is five times the weight of the others
        out[f"out_weight_{kind}"] = [maximum * ramp(t, rampup, int(unit)) for t in golden[f"in_iter_{kind}"].tolist()]
    return out


class Weights(nn.Module):
    """Parameters and batch-norm buffers of given values."""

    def __init__(self, weight: Tensor, **buffers: Tensor):
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        for name, value in buffers.items():
            self.register_buffer(name, value.clone())


def ema(golden: Golden) -> Computed:
    out: Computed = {}
    students = golden.tensor("in_student")
    for kind in golden.endings("out_teacher_"):
        decay = float(f"0.{kind.rpartition('_')[2][1:]}")
        teacher, states = Weights(golden.tensor("in_teacher0")), []
        for step, student in zip(golden["in_step"].tolist(), students):
            ema_update(teacher, Weights(student), step, decay)
            states.append(teacher.weight.detach().clone())
        out[f"out_teacher_{kind}"] = torch.stack(states)

    names = ("weight", "running_mean", "running_var", "num_batches")
    keeps = {"bcp_acdc": ([0.99], True), "bcp_la": ([0.99], False), "dssn": ([0.0, 0.996], True)}
    for kind, (keep, buffers) in keeps.items():
        teacher = Weights(**{name: golden.tensor(f"in_bn_{name}0") for name in names})
        history: dict[str, list[Tensor]] = {name: [] for name in names}
        for k in range(len(golden["in_bn_weight"])):
            student = Weights(**{name: golden.tensor(f"in_bn_{name}")[k] for name in names})
            average_weights(teacher, student, keep[min(k, len(keep) - 1)], buffers)
            for name in names:
                history[name].append(teacher.state_dict()[name].clone())
        out |= {f"out_{kind}_{name}": torch.stack(values) for name, values in history.items()}
    return out


def sampler(golden: Golden) -> Computed:
    """Batches are made as in training; only the permutations come from the generator that the published sampler had."""
    out: Computed = {}
    for k in golden.endings("par_seed_"):
        n_labeled, n_unlabeled, batch, unlabeled = golden[f"par_{k}"].tolist()
        state = np.random.RandomState(golden[f"par_seed_{k}"].item())
        length = n_labeled // (batch - unlabeled)
        epochs = []
        for _ in range(len(golden[f"out_batches_{k}"])):
            labeled = iter([state.permutation(n_labeled)])
            rest = (n_labeled + order for order in permutations(n_unlabeled, state))
            epochs.append([np.concatenate(rows) for rows in two_stream_epoch(labeled, rest, length, batch - unlabeled, unlabeled)])
        out |= {f"out_batches_{k}": np.array(epochs), f"out_length_{k}": length}
    return out


def labeled_slices(golden: Golden) -> Computed:
    """Counted by the reader of ACDC from the published lists; the slice files of a folder of the test's own are empty."""
    out: Computed = {}
    with tempfile.TemporaryDirectory() as folder:
        source = AcdcSource(DATA_SETS["ACDC"], Path(folder))
        (Path(folder) / "data" / "slices").mkdir(parents=True)
        for entry in source.slices():
            (Path(folder) / "data" / "slices" / f"{entry.name}.h5").touch()
        train = source.cases("train")
        patients = len({case.group for case in train})
        everything = [item.name for item in source.items(train)]
        for kind in ("acdc", "bcp_acdc"):
            counts = np.ma.masked_all(len(golden[f"in_patients_{kind}"]), np.int64)
            for row, asked in enumerate(golden[f"in_patients_{kind}"].tolist()):
                if asked <= patients:  # 140 of the published table counts volumes
                    labeled, _, _ = label_budget(train, True, "patient", str(asked), "first", 0)
                    names = [item.name for item in source.items(labeled)]
                    assert names == everything[: len(names)], "the labelled slices lead the list"
                    counts[row] = len(names)
            out[f"out_slices_{kind}"] = counts
    return out


FILES = {
    "dice_loss": Parity(dice, tolerances={"grad_logits_*": 2e-5, "out_per_class_*": (1e-5, 1e-6)}),
    "dice_loss_binary": Parity(dice_binary),
    "focal_loss": Parity(focal),
    "supervised_loss": Parity(supervised),
    "softmax_consistency": Parity(consistency, tolerances={"out_mse_map_*": (1e-5, 1e-6)}),
    "ramps": Parity(ramps, tolerances={"out_cosine_rampdown_*": (1e-12, 1e-12)}),
    "lr_schedules": Parity(lr_schedules),
    "consistency_weight": Parity(weights),
    "ema": Parity(ema, tolerances={"out_*": (1e-5, 1e-6)}),
    "two_stream_sampler": Parity(sampler),
    "patients_to_slices": Parity(labeled_slices, later=("out_slices_prostate",)),
}
