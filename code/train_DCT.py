"""DCT as SSL4MIS has it: rotation consistency. It bears the name of deep co-training and is not it.

Deep co-training (Qiao et al., ECCV 2018) trains two networks that must agree on unlabelled images
and differ on adversarial ones. The published script of that name, whose figures are quoted as
"DCT", trains one network whose prediction must turn with the image:

    L = S(f(x_l), y_l) + w(t) * mean |softmax f(R x_u) - R softmax f(x_u)|^2,   S = (CE + Dice) / 2

R turns by k quarters, k drawn from 0, 1, 2, 3 for the whole batch; half the gradient of the second
term flows to either side.

Page: docs/methods/dct.md      python code/train_DCT.py --dataset ACDC
Score: Dice 0.805 on Phantom: python code/compare.py --methods DCT --seeds 1
"""
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from engine import NotNegative, Options, Presets, Run, launch
from losses import supervised_loss
from networks import logits_of


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """Weight of the unsupervised term once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    gradient: Literal["half", "full"] = "half"
    """Gradient of that term, whose value is the same: half of it to either side (SSL4MIS), or all
    (simEps's authors)."""


PRESETS: Presets = {
    "defect": dict(gradient="full"),
    "NEU-Seg": dict(max_iterations=35341, patience=40),
}


def turned(x, turns):
    """(B, C, *sides) by quarter turns in its first two sides: a slice, or a volume's planes."""
    return torch.rot90(x, turns, (2, 3))


def disagreement(of_turned, turned_of, gradient):
    """Mean squared difference; with "half" each is compared with the other one held fixed, and both
    halves are averaged."""
    if gradient == "full":
        return F.mse_loss(of_turned, turned_of)
    one, other = of_turned.detach(), turned_of.detach()
    return (F.mse_loss(of_turned, other) + F.mse_loss(one, turned_of)) / 2


def losses(network, batch, turns, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    logits_l, logits_u = logits_of(network, batch.labeled, batch.unlabeled, options.passes)
    of_turned = network(turned(batch.unlabeled, turns)).softmax(1)
    turned_of = turned(logits_u.softmax(1), turns)

    supervised = supervised_loss(logits_l, batch.labels, options.dice)
    consistency = disagreement(of_turned, turned_of, options.gradient)
    total = supervised + weight * consistency
    return {"total": total, "supervised": supervised, "consistency": consistency}


def main(options: Method) -> None:
    run = Run(options)
    height, width = options.patch_size[:2]
    every = 1 if height == width else 2
    if every == 2:
        run.say(f"--patch_size {' '.join(map(str, options.patch_size))}: sides of {height} and "
                f"{width} change places in a quarter turn, so images are rotated by 0 and 180 "
                "degrees only. Equal sides allow all four rotations.")
    network = run.network("network")
    optimizer = run.optimizer("network", network)
    step_losses = run.compiled(losses)
    run.evaluates(network=network)

    for step, batch in run.batches():
        turns = every * int(batch.rng.integers(4 // every))
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        terms = step_losses(network, batch, turns, weight, options)
        run.update(optimizer, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
