"""DCT as SSL4MIS has it: rotation consistency. It bears the name of deep co-training, and is not deep co-training.

Deep co-training (Qiao et al., ECCV 2018) trains two networks that must agree on unlabelled images and differ on adversarial ones.
The published script of that name, whose figures are quoted as "DCT", trains one network whose prediction must turn with the image:

    L = (CE + Dice)(f(x_l), y_l) / 2 + w(t) * mean |softmax f(R x_u) - R softmax f(x_u)|^2
    R = a rotation by k quarter turns, k drawn from 0, 1, 2, 3 for the whole batch; half the gradient of the second term to either side

Page: docs/methods/dct.md          python code/train_DCT.py --dataset ACDC --labeled_num 7
"""
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from engine import Options, Presets, Run, launch
from engine.schedules import consistency_weight
from losses import supervised_loss
from networks import logits_of


@dataclass
class DCT(Options):
    consistency: float = 0.1
    """Weight of the consistency term once ramped up, 0 or more."""
    consistency_rampup: float = 200.0
    """Length of the ramp, in units of 150 steps."""
    gradient: Literal["half", "full"] = "half"
    """Gradient of the consistency term, whose value is the same: half of it to either side (SSL4MIS), or all (simEps's authors)."""


PRESETS: Presets = {
    "NEU-Seg": dict(gradient="full", max_iterations=35341, patience=40),
    "DAGM": dict(gradient="full"),
    "MT": dict(gradient="full"),
    "Phantom": dict(consistency_rampup=1.0),
}


def turned(x, turns):
    """(B, C, *sides) rotated by quarter turns in the first two axes of space: of a slice, or of a volume's axial planes."""
    return torch.rot90(x, turns, (2, 3))


def disagreement(of_turned, turned_of, gradient):
    """Mean squared difference of two maps; with "half" each is compared with the other one held fixed, and both halves are averaged."""
    if gradient == "full":
        return F.mse_loss(of_turned, turned_of)
    return (F.mse_loss(of_turned, turned_of.detach()) + F.mse_loss(of_turned.detach(), turned_of)) / 2


def losses(network, batch, turns, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    n = batch.n_labeled
    logits = logits_of(network, batch.labeled, batch.unlabeled, options.passes)
    of_turned = network(turned(batch.unlabeled, turns)).softmax(1)

    supervised = supervised_loss(logits[:n], batch.labels, options.dice)
    consistency = disagreement(of_turned, turned(logits[n:].softmax(1), turns), options.gradient)
    return {"total": supervised + weight * consistency, "supervised": supervised, "consistency": consistency}


def main(options: DCT) -> None:
    run = Run(options)
    height, width = options.patch_size[:2]
    every = 1 if height == width else 2
    if every == 2:
        run.say(f"--patch_size {' '.join(map(str, options.patch_size))}: sides of {height} and {width} change places in a quarter turn, so "
                "images are rotated by 0 and 180 degrees only. Equal sides allow all four rotations.")
    network = run.network("network")
    optimizer = run.optimizer("network", network)
    step_losses = run.compiled(losses)
    run.evaluates(network=network)

    for step, batch in run.batches():
        turns = every * int(batch.rng.integers(4 // every))
        weight = consistency_weight(step, options.consistency, options.consistency_rampup, whole=options.whole_ramp)
        terms = step_losses(network, batch, turns, weight, options)
        run.update(optimizer, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, DCT, PRESETS)
