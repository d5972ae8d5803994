"""CPS: cross pseudo supervision (Chen et al., CVPR 2021, arXiv 2106.01226).

Two networks of one architecture, with different initial weights, see the same images. What one predicts for an unlabelled image,
as hard labels, is what the other learns from:

    L = S(f_1(x_l), y_l) + S(f_2(x_l), y_l) + w(t) * [CE(f_1(x_u), argmax f_2(x_u)) + CE(f_2(x_u), argmax f_1(x_u))]

with S = (CE + Dice) / 2.

Page: docs/methods/cps.md          python code/train_CPS.py --dataset ACDC --labeled_num 7
"""
from dataclasses import dataclass
from typing import Literal

import torch

from engine import Options, Presets, Run, launch
from engine.schedules import consistency_weight
from losses import cross_entropy, supervised_loss
from networks import logits_of
from networks.initial import start_apart


@dataclass
class CPS(Options):
    consistency: float = 0.1
    """Weight of the pseudo-labels once ramped up, 0 or more (the paper: constant, 1.5 on VOC and 6 on Cityscapes)."""
    consistency_rampup: float = 200.0
    """Length of the ramp, in units of 150 steps; 0 for a constant weight."""
    pseudo_loss: Literal["ce", "hybrid"] = "ce"
    """How a network learns from pseudo-labels: cross-entropy, or half of it and half of Dice (simEps's authors)."""
    cps_on_labelled: bool = False
    """Pseudo-labels on labelled images too, beside their labels (the paper, and simEps's authors)."""
    init: Literal["default", "kaiming_xavier"] = "default"
    """Initial weights: the architecture's own for both, or Kaiming-normal and Xavier-normal convolutions (published in 3D)."""


SIMEPS = dict(schedule="plateau", pseudo_loss="hybrid", cps_on_labelled=True)
"""As simEps's authors ran it on NEU-Seg, and as it has to stand beside simEps on DAGM and MT."""

PRESETS: Presets = {
    "2D": dict(schedule="poly_next"),
    "3D": dict(schedule="poly_next", init="kaiming_xavier"),
    "LA": dict(schedule="step"),
    "Pancreas-CT": dict(schedule="step"),
    **dict.fromkeys(("NEU-Seg", "DAGM", "MT"), SIMEPS),
    "Phantom": dict(consistency_rampup=2.0),
}


def losses(model1, model2, batch, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    n = batch.n_labeled
    first, second = (logits_of(model, batch.labeled, batch.unlabeled, options.passes) for model in (model1, model2))
    by_first, by_second = (logits.detach().argmax(1) for logits in (first, second))  # hard, and however unsure

    def learns(logits, labels):
        return cross_entropy(logits, labels) if options.pseudo_loss == "ce" else supervised_loss(logits, labels, options.dice)

    supervised = {
        "supervised_1": supervised_loss(first[:n], batch.labels, options.dice),
        "supervised_2": supervised_loss(second[:n], batch.labels, options.dice),
    }
    pseudo = {"pseudo_1": learns(first[n:], by_second[n:]), "pseudo_2": learns(second[n:], by_first[n:])}
    if options.cps_on_labelled:
        pseudo |= {"pseudo_labeled_1": learns(first[:n], by_second[:n]), "pseudo_labeled_2": learns(second[:n], by_first[:n])}
    agreement = (by_first[n:] == by_second[n:]).float().mean()
    total = sum(supervised.values()) + weight * sum(pseudo.values())
    return {"total": total, **supervised, **pseudo, "agreement": agreement, "pseudo_labels": torch.stack([by_first[n:], by_second[n:]])}


def main(options: CPS) -> None:
    run = Run(options)
    model1, model2 = run.network("model1"), run.network("model2")
    if options.init == "kaiming_xavier":
        start_apart(model1, model2)
    optimizers = [run.optimizer("model1", model1), run.optimizer("model2", model2)]
    step_losses = run.compiled(losses)
    run.evaluates(by_validation=True, model1=model1, model2=model2, ensemble="mean_logits")

    for step, batch in run.batches():
        weight = consistency_weight(step, options.consistency, options.consistency_rampup, whole=options.whole_ramp)
        terms = step_losses(model1, model2, batch, weight, options)
        run.update(optimizers, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, CPS, PRESETS)
