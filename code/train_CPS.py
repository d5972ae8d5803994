"""CPS: cross pseudo supervision (Chen et al., CVPR 2021, arXiv 2106.01226).

Two networks of one architecture, with different initial weights, see the same images. What one
predicts for an unlabelled image, as hard labels, is what the other learns from:

    L = S(f_1(x_l), y_l) + S(f_2(x_l), y_l) + w(t) * [CE(f_1(x_u), q_2) + CE(f_2(x_u), q_1)]
    q_k = argmax f_k(x_u),   S = (CE + Dice) / 2

Page: docs/methods/cps.md      python code/train_CPS.py --dataset ACDC
Score: Dice 0.783 on Phantom: python code/compare.py --methods CPS --seeds 1
"""
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from engine import NotNegative, Options, Presets, Run, launch
from losses import cross_entropy, supervised_loss
from networks import logits_of
from networks.initial import start_apart


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """Weight of the unsupervised term once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    pseudo_loss: Literal["ce", "hybrid"] = "ce"
    """How a network learns from pseudo-labels: cross-entropy, or S (simEps's authors)."""
    cps_on_labelled: bool = False
    """Pseudo-labels on labelled images too, beside their labels (the paper, simEps's authors)."""
    init: Literal["default", "kaiming_xavier"] = "default"
    """Initial weights: the networks' own, or Kaiming and Xavier normal (published in 3D)."""


PRESETS: Presets = {
    "2D": dict(schedule="poly_next"),
    "3D": dict(schedule="poly_next", init="kaiming_xavier"),
    "LA": dict(schedule="step"),
    "Pancreas-CT": dict(schedule="step"),
    # As simEps's authors ran it on NEU-Seg, and as it has to stand beside simEps on the others.
    "defect": dict(schedule="plateau", pseudo_loss="hybrid", cps_on_labelled=True),
    # The paper's own, without CutMix.
    "natural": dict(consistency=1.5, consistency_rampup=0.0, cps_on_labelled=True),
    "Cityscapes": dict(consistency=6.0),
    "Phantom": dict(consistency_rampup=2.0),
}


def losses(model1, model2, batch, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    logits1_l, logits1_u = logits_of(model1, batch.labeled, batch.unlabeled, options.passes)
    logits2_l, logits2_u = logits_of(model2, batch.labeled, batch.unlabeled, options.passes)
    pseudo1_u, pseudo2_u = (z.detach().argmax(1) for z in (logits1_u, logits2_u))  # however unsure
    hybrid = partial(supervised_loss, dice=options.dice)
    learn = hybrid if options.pseudo_loss == "hybrid" else cross_entropy

    supervised = {"supervised_1": supervised_loss(logits1_l, batch.labels, options.dice),
                  "supervised_2": supervised_loss(logits2_l, batch.labels, options.dice)}
    pseudo = {"pseudo_1": learn(logits1_u, pseudo2_u),
              "pseudo_2": learn(logits2_u, pseudo1_u)}
    if options.cps_on_labelled:
        pseudo["pseudo_labeled_1"] = learn(logits1_l, logits2_l.detach().argmax(1))
        pseudo["pseudo_labeled_2"] = learn(logits2_l, logits1_l.detach().argmax(1))
    total = sum(supervised.values()) + weight * sum(pseudo.values())
    agreement = (pseudo1_u == pseudo2_u).float().mean()
    return {"total": total, **supervised, **pseudo, "agreement": agreement,
            "pseudo_labels": torch.stack([pseudo1_u, pseudo2_u])}


def main(options: Method) -> None:
    run = Run(options)
    model1, model2 = run.network("model1"), run.network("model2")
    if options.init == "kaiming_xavier":
        start_apart(model1, model2)
    optimizers = [run.optimizer("model1", model1), run.optimizer("model2", model2)]
    step_losses = run.compiled(losses)
    run.evaluates(by_validation=True, model1=model1, model2=model2, ensemble="mean_logits")

    for step, batch in run.batches():
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        terms = step_losses(model1, model2, batch, weight, options)
        run.update(optimizers, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
