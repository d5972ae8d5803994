"""AD-MT: alternate diverse teaching (Zhao et al., ECCV 2024, arXiv 2311.17325).

Two teachers take turns of random length to move towards the student f. What both say of an
unlabelled image, fused by how sure each is, is the label of a strong view s(x): recoloured in the
turns of one, CutMix in those of the other. Where they disagree f's class replaces a less sure one.

    L = S(f(x_l), y_l) + w(t) * D(f(s(x_u)), q),   S = (CE + Dice) / 2,   D = Dice or CE
    q = argmax p where max p >= tau, elsewhere the pixel is not counted
    p = (e^-H(p_1) p_1 + e^-H(p_2) p_2) / (e^-H(p_1) + e^-H(p_2)),   p_k of teacher k, H in bits

Page: docs/methods/ad_mt.md      python code/train_ADMT.py --dataset ACDC
"""
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from dataloaders.augmentation.strong_views import cutmix_view, recoloured
from dataloaders.augmentation.strong_volumes import contrast_view
from engine import Count, NotNegative, Options, Presets, Run, Share, launch
from losses import cross_entropy, entropy_bits, supervised_loss
from losses.supervised import DICE
from networks import ema_update, frozen_copy, logits_of


@dataclass
class Method(Options):
    variant: Literal["default", "published_code"] = "default"
    """published_code: under CutMix, mixed labels meet the student's unmixed prediction."""
    consistency: NotNegative = 2.0
    """Weight of the unsupervised term once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 50.0
    """Length of its ramp in units of 150 steps; for twice as many steps teachers are copies."""
    ema_decay: Share = 0.99
    """Share of the old teacher in the moving average, 0 to 1."""
    longest_turn: Count = 50
    """A teacher's turn has 1 to so many steps."""
    confidence: Share = 0.95
    """tau, 0 to 1."""
    pseudo_loss: Literal["dice", "ce"] = "dice"
    """D, what the student learns pseudo-labels by."""
    own_class: Literal["mixed", "unmixed"] = "mixed"
    """The student's class under CutMix: mixed as the labels are, or not (published code)."""


PRESETS: Presets = {
    "3D": dict(longest_turn=19, confidence=0.8, pseudo_loss="ce"),
    "LA": dict(max_iterations=15000, schedule="poly", dice="squared"),
    "Pancreas-CT": dict(max_iterations=15000, schedule="poly", dice="squared", longest_turn=14),
    "published_code": dict(own_class="unmixed"),
}


def turns(longest, steps, rng):
    """Whose turn each step is, teacher 1's first: a turn has U{1..longest} steps."""
    whose: list[int] = []
    while len(whose) < steps:
        whose += [2 if whose[-1:] == [1] else 1] * int(rng.integers(1, longest + 1))
    return whose


def strong_view(images, turn, rng, data):
    """(images, mix): CutMix's box and partner, or None where nothing is mixed."""
    if turn == 2:
        return cutmix_view(images, rng)
    if data.dimensions == 3:
        return contrast_view(images, rng), None
    return recoloured(images, rng, (0.5, 0.5, 0.5, 0.25), 0.2, 0.0, data.mean, data.std, 0.8), None


def fused(p1, p2):
    """The mean of two predictions, each weighted by e^-H."""
    first = (entropy_bits(p2) - entropy_bits(p1)).sigmoid()
    return first * p1 + (1 - first) * p2


def losses(student, teacher1, teacher2, batch, strong_u, mix, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    def mixed(maps):
        return maps if mix is None else [torch.where(mix[0][:, 0], x[mix[1]], x) for x in maps]

    with torch.no_grad():
        p1, p2 = (teacher(batch.unlabeled).softmax(1) for teacher in (teacher1, teacher2))
        taught = *fused(p1, p2).max(1), p1.argmax(1) != p2.argmax(1)
        confidence_u, pseudo_u, conflict = mixed(taught)
    both_u = torch.cat([batch.unlabeled, strong_u])
    logits_l, logits_both = logits_of(student, batch.labeled, both_u, options.passes)
    logits_u, logits_s = logits_both.chunk(2)
    own = logits_u.detach().softmax(1).max(1)
    own_confidence, own_class = mixed(own) if options.own_class == "mixed" else own
    replaced = conflict & (own_class != pseudo_u) & (own_confidence > confidence_u)
    confidence_u = torch.where(replaced, own_confidence, confidence_u)
    pseudo_u = torch.where(replaced, own_class, pseudo_u)
    pseudo_u = pseudo_u.masked_fill(confidence_u < options.confidence, 255)

    supervised = supervised_loss(logits_l, batch.labels, options.dice)
    learn = cross_entropy if options.pseudo_loss == "ce" else DICE.get(options.dice, cross_entropy)
    unsupervised = learn(logits_s, pseudo_u)
    total = supervised + weight * unsupervised
    return {"total": total, "supervised": supervised, "unsupervised": unsupervised,
            "pseudo_labels": pseudo_u, "mask": pseudo_u != 255, "strong_view": strong_u,
            "confidence": confidence_u[:, None], "conflict": conflict[:, None]}


def main(options: Method) -> None:
    run = Run(options)
    student = run.network("student")
    teachers = [run.keep(f"teacher{k}", frozen_copy(student), train=True) for k in (1, 2)]
    optimizer = run.optimizer("student", student)
    step_losses = run.compiled(losses)
    run.evaluates(student=student, teacher1=teachers[0], teacher2=teachers[1])
    whose = turns(options.longest_turn, options.max_iterations, np.random.default_rng(options.seed))

    for step, batch in run.batches():
        turn = whose[step]
        for k, teacher in enumerate(teachers, 1):
            teacher.train(k == turn)
        strong_u, mix = strong_view(batch.unlabeled, turn, batch.rng, run.data)
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        terms = step_losses(student, *teachers, batch, strong_u, mix, weight, options)
        run.update(optimizer, terms)
        averaged = max(step // 2 - options.consistency_rampup, 0)  # 0: a copy
        ema_update(teachers[turn - 1], student, averaged, options.ema_decay, buffers=True)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
