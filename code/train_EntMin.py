"""Entropy minimisation (Grandvalet and Bengio, NeurIPS 2004; ADVENT: Vu et al., CVPR 2019).

One network learns from the labelled images, and is to be sure of what it says about every image,
labelled or not. So the border between classes is pushed to where few pixels are:

    L = S(f(x_l), y_l) + w(t) * mean H(softmax f(x)) / ln C,   S = (CE + Dice) / 2
    H(p) = - sum_c p_c ln p_c

Page: docs/methods/entropy_minimization.md      python code/train_EntMin.py --dataset ACDC
Score: Dice 0.817 on Phantom: python code/compare.py --methods EntMin --seeds 1
"""
from dataclasses import dataclass
from math import log
from typing import Literal

import torch

from engine import NotNegative, Options, Presets, Run, launch
from losses import entropy_map, supervised_loss
from networks import logits_of


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """Weight of the unsupervised term once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    entropy_rows: Literal["all", "unlabeled"] = "all"
    """Images whose entropy is lowered: all (published code), or the unlabelled ones (ADVENT)."""


PRESETS: Presets = {}


def losses(network, batch, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    logits_l, logits_u = logits_of(network, batch.labeled, batch.unlabeled, options.passes)
    logits = torch.cat([logits_l, logits_u]) if options.entropy_rows == "all" else logits_u
    unsure = entropy_map(logits.softmax(1)) / log(logits.shape[1])  # 1: every class is as likely

    supervised = supervised_loss(logits_l, batch.labels, options.dice)
    entropy = unsure.mean()
    total = supervised + weight * entropy
    # The pseudo-labels are logged, because the known failure is a collapse into one class.
    return {"total": total, "supervised": supervised, "entropy": entropy,
            "entropy_map": unsure[:, 0].detach(), "pseudo_labels": logits_u.detach().argmax(1)}


def main(options: Method) -> None:
    run = Run(options)
    network = run.network("network")
    optimizer = run.optimizer("network", network)
    step_losses = run.compiled(losses)
    run.evaluates(network=network)

    for step, batch in run.batches():
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        terms = step_losses(network, batch, weight, options)
        run.update(optimizer, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
