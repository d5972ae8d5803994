"""FixMatch as SSL4MIS's train_fixmatch_standard_augs.py has it, after PseudoSeg, with CLS.

What a network says of a weak view x is the label of a strong view s(x) of the same image, and where
it is not sure, the label is background. Besides, the strong view shall not show the class that is
least likely in the weak one (CLS: negative learning, arXiv 2202.08502):

    L = 2 S(f(x_l), y_l) + w(t) * [2 S(f(s(x_u)), q) + A^2 CE(1 - softmax f(s(x)), argmin_c p)]
    q = argmax p where (max p - min p) / max p > tau, elsewhere 0;   p = softmax f(x)
    A = 1 - the entropy of where in an image a class lies / ln HW, its mean;   S = (CE + Dice) / 2

A moving average of the weights is made and scored, and never asked (as published).

Page: docs/methods/fixmatch_standard_augs.md      python code/train_FixMatchStandardAugs.py
"""
from dataclasses import dataclass
from typing import Annotated

import torch

from dataloaders.augmentation.strong_views import recoloured
from engine import NotNegative, Options, Presets, Run, Share, Within, launch
from losses import supervised_loss
from losses.pseudo_labels import complementary_loss, concentration, hard_labels
from networks import ema_update, frozen_copy, logits_of


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """Weight of the unsupervised term once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    ema_decay: Share = 0.99
    """Share of the old teacher in the moving average, 0 to 1."""
    confidence: Share = 0.8
    """tau, 0 to 1."""
    jitter: Annotated[tuple[float, float, float, float], Within(0)] = (0.8, 0.8, 0.8, 0.2)
    """Brightness, contrast, saturation, hue; the last two act on three channels only."""
    blur: Share = 0.0
    """Share of the strong views that are blurred, by a Gaussian of 0.1 to 2 pixels."""
    cutout: Share = 0.0
    """Share of the strong views with a black box of 2 to 40 % of the image."""


PRESETS: Presets = {
    "Phantom": dict(consistency=0.5, consistency_rampup=2.0),
}


def losses(student, batch, strong, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    strong_l, strong_u = strong.tensor_split([batch.n_labeled])
    logits_l, logits_u = logits_of(student, batch.labeled, batch.unlabeled, options.passes)
    logits_s = torch.cat(logits_of(student, strong_l, strong_u, options.passes))
    target = torch.cat([logits_l, logits_u]).detach()
    pseudo_u = hard_labels(logits_u.detach(), options.confidence, "background")

    supervised = 2 * supervised_loss(logits_l, batch.labels, options.dice)
    pseudo = 2 * supervised_loss(logits_s[batch.n_labeled :], pseudo_u, options.dice)
    complementary = complementary_loss(logits_s, target)  # has one factor A already
    unsupervised = pseudo + concentration(logits_s) * complementary
    total = supervised + weight * unsupervised
    return {"total": total, "supervised": supervised, "unsupervised": unsupervised,
            "complementary": complementary, "pseudo_labels": pseudo_u}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(run.data.dimensions == 3, f"FixMatch is for images, and {run.data.name} has "
               "volumes; train_MeanTeacher.py takes them.")
    student = run.network("student")
    teacher = run.keep("teacher", frozen_copy(student), train=True)
    optimizer = run.optimizer("student", student)
    step_losses = run.compiled(losses)
    run.evaluates(student=student, teacher=teacher)

    for step, batch in run.batches(recipe="turn_flip"):
        strong = recoloured(batch.images, batch.rng, options.jitter, options.blur,
                            options.cutout, run.data.mean, run.data.std)
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        terms = step_losses(student, batch, strong, weight, options)
        run.update(optimizer, terms)
        ema_update(teacher, student, step, options.ema_decay)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
