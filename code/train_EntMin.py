"""Entropy minimisation (Grandvalet and Bengio, NeurIPS 2004; in segmentation ADVENT, Vu et al., CVPR 2019).

One network learns from the labelled images, and is to be sure of what it says about every image, labelled or not. So the border
between classes is pushed to where few pixels are:

    L = (CE + Dice)(f(x_l), y_l) / 2 + w(t) * mean H(softmax f(x)) / ln C,   H(p) = - sum_c p_c ln p_c

Page: docs/methods/entropy_minimization.md          python code/train_EntMin.py --dataset ACDC --labeled_num 7
"""
from dataclasses import dataclass
from math import log
from typing import Literal

from engine import Options, Presets, Run, launch
from engine.schedules import consistency_weight
from losses import entropy_map, supervised_loss
from networks import logits_of


@dataclass
class EntMin(Options):
    consistency: float = 0.1
    """Weight of the entropy once ramped up, 0 or more."""
    consistency_rampup: float = 200.0
    """Length of the ramp, in units of 150 steps."""
    entropy_rows: Literal["all", "unlabeled"] = "all"
    """Images whose entropy is lowered: all of the batch (published code), or the unlabelled ones (ADVENT)."""


PRESETS: Presets = {
    "Phantom": dict(consistency_rampup=1.0),
}


def unsureness(logits):
    """H / ln C at each position, (B, *spatial): 0 where the network is sure, 1 where every class is as likely as any other."""
    return entropy_map(logits.softmax(1))[:, 0] / log(logits.shape[1])


def losses(network, batch, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    n = batch.n_labeled
    logits = logits_of(network, batch.labeled, batch.unlabeled, options.passes)
    unsure = unsureness(logits if options.entropy_rows == "all" else logits[n:])

    predicted = logits[n:].detach().argmax(1)  # logged, because the known failure is a collapse into one class

    terms = {"supervised": supervised_loss(logits[:n], batch.labels, options.dice), "entropy": unsure.mean()}
    total = terms["supervised"] + weight * terms["entropy"]
    return {"total": total, **terms, "entropy_map": unsure.detach(), "pseudo_labels": predicted}


def main(options: EntMin) -> None:
    run = Run(options)
    network = run.network("network")
    optimizer = run.optimizer("network", network)
    step_losses = run.compiled(losses)
    run.evaluates(network=network)

    for step, batch in run.batches():
        weight = consistency_weight(step, options.consistency, options.consistency_rampup, whole=options.whole_ramp)
        terms = step_losses(network, batch, weight, options)
        run.update(optimizer, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, EntMin, PRESETS)
