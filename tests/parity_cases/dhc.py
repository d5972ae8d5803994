"""DHC: the weights of classes, the losses, and the schedules."""
from __future__ import annotations

from types import SimpleNamespace

import torch
import train_DHC
from parity_tools import Computed, Golden, Parity, Stub, golden_batch, gradient

from engine.schedules import epoch_before, poly, sigmoid_rampup
from losses.class_weights import DifficultyWeights, FrequencyWeights, by_frequency, weighted_cross_entropy, weighted_dice


def counts_of(labels: torch.Tensor, classes: int) -> torch.Tensor:
    return torch.bincount(labels.flatten(), minlength=classes)


def class_weights(golden: Golden) -> Computed:
    classes = golden["par_classes"].item()
    difficulty = DifficultyWeights(classes, keep=golden["par_momentum_a"].item())
    frequency = FrequencyWeights(counts_of(golden.tensor("in_all_labels"), classes), golden["par_momentum_b"].item())
    names = ("weight_a", "weight_b", "dice", "learn", "unlearn", "hardness", "instant_b")
    out: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    initial = {"out_initial_a": torch.full((classes,), float(classes)), "out_initial_b": frequency.weights}
    for labels, of_a, of_b in zip(*(golden.tensor(f"in_{name}") for name in ("labels", "logits_a_labeled", "logits_b_unlabeled"))):
        out["weight_a"].append(difficulty.seen(of_a, labels))
        out["weight_b"].append(frequency.seen(of_b))
        out["instant_b"].append(by_frequency(counts_of(of_b.argmax(1), classes)))
        for name, ours in (("dice", "dice"), ("learn", "rise"), ("unlearn", "fall"), ("hardness", "error")):
            out[name].append(difficulty.state[ours])
    found: Computed = {f"out_{name}": torch.stack(values) for name, values in out.items()}
    return found | initial | {"out_weights_of_counts": by_frequency(golden.tensor("in_counts"))}


def terms(golden: Golden) -> Computed:
    n = golden["par_labeled_bs"].item()
    labels, logits = golden.tensor("in_labels")[:n], [golden.leaf(f"in_logits_{k}") for k in "ab"]
    weights = [golden.tensor(f"in_weight_{k}") for k in "ab"]
    fixed = [SimpleNamespace(seen=lambda *given, v=v: v) for v in weights]
    batch = golden_batch(labels, len(logits[0]) - n)
    found = train_DHC.losses(*map(Stub, logits), *fixed, batch, golden["par_cross_weight"].item(), train_DHC.Method())
    out: Computed = {"out_total": found["total"], "out_supervised": found["supervised_1"] + found["supervised_2"],
                     "out_cross": found["pseudo_1"] + found["pseudo_2"]}
    for i, (k, z, v) in enumerate(zip("ab", logits, weights), 1):
        out |= {f"out_ce_{k}": weighted_cross_entropy(z[:n], labels, v), f"out_dice_{k}": weighted_dice(z[:n], labels, v)}
        out |= {f"out_supervised_{k}": found[f"supervised_{i}"], f"out_cross_{k}": found[f"pseudo_{i}"]}
        out |= {f"grad_{name}_{k}": gradient(out[f"out_{name}"], z)[0] for name in ("supervised", "cross", "total")}
    hard = golden.leaf("in_hard_logits")
    dice = weighted_dice(hard, torch.zeros(1, *hard.shape[2:], dtype=torch.long), weights[0])
    return out | {"out_hard_dice": dice, "grad_hard_dice": gradient(dice, hard)[0]}


def schedules(golden: Golden) -> Computed:
    epochs, base, weight = (golden[f"par_{name}"].item() for name in ("epochs", "base_lr", "weight"))
    late = [epoch_before(epoch, epochs, epochs) for epoch in golden["in_epoch"].tolist()]
    return {"out_weight_in_effect": [weight * sigmoid_rampup(epoch, epochs) for epoch in late],
            "out_learning_rate_in_effect": [poly(base, epoch, epochs) for epoch in late]}


FILES = {"dhc_weights": Parity(class_weights), "dhc_losses": Parity(terms), "dhc_schedules": Parity(schedules)}
