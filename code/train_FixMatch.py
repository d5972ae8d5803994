"""FixMatch for segmentation (Sohn et al., NeurIPS 2020, arXiv 2001.07685).

What a teacher f', the moving average of the student's weights, is sure of in a weak view of an
unlabelled image is the label that the student f must find in a strong view s(x) of it, which
differs in appearance only:

    L = S(f(x_l), y_l) + w(t) * S(f(s(x_u)), q),   S = (CE + Dice) / 2
    q = argmax p where max p >= tau, elsewhere the pixel is not counted;   p = softmax f'(x_u)

Page: docs/methods/fixmatch.md      python code/train_FixMatch.py --dataset ACDC
Score: Dice 0.697 on ACDC at 64x64, 2,000 steps, 11 min on a CPU core (results/acdc_small.md)
"""
from dataclasses import dataclass
from typing import Annotated

import torch

from dataloaders.augmentation.strong_views import recoloured
from engine import NotNegative, Options, Presets, Run, Share, Within, launch
from losses import supervised_loss
from losses.pseudo_labels import hard_labels
from networks import ema_update, frozen_copy, logits_of


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """Weight of the unsupervised term once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    ema_decay: Share = 0.99
    """Share of the old teacher in the moving average, 0 to 1."""
    confidence: Share = 0.95
    """tau, 0 to 1."""
    jitter: Annotated[tuple[float, float, float, float], Within(0)] = (0.8, 0.8, 0.8, 0.2)
    """Brightness, contrast, saturation, hue; the last two act on three channels only."""
    blur: Share = 0.0
    """Share of the strong views that are blurred, by a Gaussian of 0.1 to 2 pixels."""
    cutout: Share = 0.0
    """Share of the strong views with a black box of 2 to 40 % of the image."""


PRESETS: Presets = {
    "natural": dict(consistency=1.0, consistency_rampup=0.0, jitter=(0.5, 0.5, 0.5, 0.25),
                    blur=0.5),
    "Phantom": dict(consistency=0.5, consistency_rampup=2.0),
}


def losses(student, teacher, batch, strong_u, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    logits_l, logits_u = logits_of(student, batch.labeled, strong_u, options.passes)
    with torch.no_grad():
        pseudo_u = hard_labels(teacher(batch.unlabeled), options.confidence)

    supervised = supervised_loss(logits_l, batch.labels, options.dice)
    unsupervised = supervised_loss(logits_u, pseudo_u, options.dice)
    total = supervised + weight * unsupervised
    return {"total": total, "supervised": supervised, "unsupervised": unsupervised,
            "pseudo_labels": pseudo_u, "mask": pseudo_u != 255}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(run.data.dimensions == 3, f"FixMatch is for images, and {run.data.name} has "
               "volumes; train_MeanTeacher.py takes them.")
    student = run.network("student")
    teacher = run.keep("teacher", frozen_copy(student), train=True)
    optimizer = run.optimizer("student", student)
    step_losses = run.compiled(losses)
    run.evaluates(student=student, teacher=teacher)

    for step, batch in run.batches():
        strong_u = recoloured(batch.unlabeled, batch.rng, options.jitter, options.blur,
                              options.cutout, run.data.mean, run.data.std)
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        terms = step_losses(student, teacher, batch, strong_u, weight, options)
        run.update(optimizer, terms)
        ema_update(teacher, student, step, options.ema_decay)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
