"""MCF: mutual correction framework (Wang et al., CVPR 2023).

Two networks of different kind see the same images. On the labelled ones each is corrected once more
where the two disagree (X). On the unlabelled ones the one whose Dice on the labels of this step is
better, the winner, teaches the other, the loser:

    L = sum_k [CE + D](f_k(x_l), y_l) + r * sum_k mean_X |softmax f_k(x_l) - y_l|^2
        + w(t) * mean |softmax f_loser(x_u) - S(f_winner(x_u))|^2
    X = {argmax f_1(x_l) != argmax f_2(x_l)},   S(z) = softmax(z / T),   D = Dice

Page: docs/methods/mcf.md      python code/train_MCF.py --dataset LA
"""
from dataclasses import dataclass
from typing import Literal

import torch

from engine import NotNegative, Options, Positive, Presets, Run, launch
from losses import batch_sums, cross_entropy, sharpened
from losses.overlap import IGNORED, one_hot
from losses.supervised import DICE
from networks import logits_of
from networks.initial import start_kaiming


@dataclass
class Method(Options):
    model2: str = "resvnet"
    """The other network, of another kind than --model (published: vnet and resvnet)."""
    correction: NotNegative = 0.5
    """r: weight of the errors where the networks disagree, 0 or more."""
    temperature: Positive = 0.1
    """T, above 0; 1 leaves what the winner says as it is, less makes it surer."""
    augment: Literal["dataset", "crop"] = "dataset"
    """The data set's own augmentation, or none but the crop (published on LA)."""
    consistency: NotNegative = 0.1
    """Weight of the unsupervised term once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""


PRESETS: Presets = {
    "2D": dict(model2="resvnet_2D", dice="foreground"),
    "3D": dict(model="vnet", dice="foreground"),
    "LA": dict(labeled_num="16", schedule="step_late", augment="crop"),
    "Pancreas-CT": dict(schedule="step_late", augment="crop"),
}


def corrections(logits1, logits2, labels):
    """(the squared error of each network, a mean over the pixels where they disagree; these)."""
    differ = (logits1.argmax(1) != logits2.argmax(1)) & (labels != IGNORED)
    target = one_hot(labels, logits1.shape[1])[0][:, 1:]
    errors1, errors2 = ((z.softmax(1)[:, 1:] - target) ** 2 for z in (logits1, logits2))
    square1, square2, count = batch_sums(*((differ * x.sum(1)).sum() for x in (errors1, errors2)),
                                         differ.sum())
    return square1 / (count + 1e-16), square2 / (count + 1e-16), differ


def losses(model1, model2, batch, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    logits1_l, logits1_u = logits_of(model1, batch.labeled, batch.unlabeled, options.passes)
    logits2_l, logits2_u = logits_of(model2, batch.labeled, batch.unlabeled, options.passes)
    dice1, dice2 = (DICE[options.dice](z, batch.labels) for z in (logits1_l, logits2_l))
    first_wins = dice1 < dice2  # where they are equal the second does
    target = sharpened(torch.where(first_wins, logits1_u, logits2_u).detach(), options.temperature)
    loser = torch.where(first_wins, logits2_u, logits1_u).softmax(1)

    correction1, correction2, differ = corrections(logits1_l, logits2_l, batch.labels)
    supervised1 = cross_entropy(logits1_l, batch.labels) + dice1 + options.correction * correction1
    supervised2 = cross_entropy(logits2_l, batch.labels) + dice2 + options.correction * correction2
    consistency = ((loser - target) ** 2).mean()
    total = supervised1 + supervised2 + weight * consistency
    return {"total": total, "supervised_1": supervised1, "supervised_2": supervised2,
            "consistency": consistency, "correction_1": correction1, "correction_2": correction2,
            "first_wins": first_wins.float(), "pseudo_labels": target.argmax(1),
            "disagreement": differ.float()}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(options.dice == "none", "--dice none: its losses are made of Dice; try squared.")
    run.refuse(options.model == options.model2, f"--model2 {options.model2}: MCF trains networks "
               "of two kinds; choose another one than --model.")
    model1, model2 = run.network("model1"), run.network("model2", model=options.model2)
    start_kaiming(model1, model2)
    optimizers = [run.optimizer("model1", model1), run.optimizer("model2", model2)]
    step_losses = run.compiled(losses)
    run.evaluates(ensemble="mean_probabilities", model1=model1, model2=model2)

    for step, batch in run.batches(recipe="none" if options.augment == "crop" else None):
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        terms = step_losses(model1, model2, batch, weight, options)
        run.update(optimizers, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
