"""FixMatch as SSL4MIS's train_fixmatch_cta.py has it: views by CTAugment (ReMixMatch, ICLR 2020).

What a teacher f', the moving average of the student's weights, says of a weak view of an unlabelled
image is the label that the student f must find in a strong view s(x) of it, however unsure. Both
views are made by a policy that learns, epoch by epoch, how strong they may be:

    L = 2 S(f(x_l), y_l) + w(t) * 2 S(f(s(x_u)), argmax f'(x_u)),   S = (CE + Dice) / 2

A batch whose labelled pixels are nearly all background changes nothing.

Page: docs/methods/fixmatch_cta.md      python code/train_FixMatchCTA.py --dataset ACDC
"""
from dataclasses import dataclass

import torch

from dataloaders.augmentation.ctaugment import CTAugment
from engine import NotNegative, Options, Presets, Run, Share, launch
from losses import batch_mean, supervised_loss
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
    confidence: Share = 0.0
    """Least probability at which a pixel of the weak view counts, 0 to 1 (published: 0)."""
    min_foreground: Share = 0.02
    """A batch whose labelled pixels are foreground at this share or less changes no weight; 0: all
    batches count."""


PRESETS: Presets = {
    "2D": dict(schedule="poly_next"),
    "Phantom": dict(consistency=0.5, consistency_rampup=2.0),
}


def losses(student, teacher, batch, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    strong_l, strong_u = batch.strong.tensor_split([batch.n_labeled])
    logits_l, _ = logits_of(student, batch.labeled, batch.unlabeled, options.passes)
    _, logits_u = logits_of(student, strong_l, strong_u, options.passes)
    with torch.no_grad():
        target = teacher(batch.images)[batch.n_labeled :]
    pseudo_u = hard_labels(target, options.confidence)

    supervised = 2 * supervised_loss(logits_l, batch.labels, options.dice)
    unsupervised = 2 * supervised_loss(logits_u, pseudo_u, options.dice)
    total = supervised + weight * unsupervised
    return {"total": total, "supervised": supervised, "unsupervised": unsupervised,
            "pseudo_labels": pseudo_u, "mask": pseudo_u != 255}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(run.data.dimensions == 3, f"FixMatch is for images, and {run.data.name} has "
               "volumes; train_MeanTeacher.py takes them.")
    student = run.network("student")
    teacher = run.keep("teacher", frozen_copy(student), train=True)
    policy = run.keep("policy", CTAugment(run.data, options.seed))
    optimizer = run.optimizer("student", student)
    step_losses = run.compiled(losses)
    run.evaluates(student=student, teacher=teacher)

    for step, batch in run.batches(augment=policy):
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        foreground = batch_mean((batch.labels % 255 > 0).float().mean())
        counts = not options.min_foreground or bool(foreground > options.min_foreground)
        terms = step_losses(student, teacher, batch, weight, options)
        if counts:
            run.update(optimizer, terms)
            ema_update(teacher, student, step, options.ema_decay)
            policy.note(1 - terms["total"].detach() / 4)
        if batch.last_of_epoch:
            policy.update(batch.shared_rng)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
