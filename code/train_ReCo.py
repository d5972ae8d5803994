"""ReCo: regional contrast on mean-teacher self-training (Liu et al., ICLR 2022, arXiv 2104.04465).

A student f learns the labels, and the hard labels q that a teacher, the moving average of its
weights, gives the unlabelled images. Vectors z, projected from features, are contrasted: those at
hard positions of a class (queries) must lie near the class's mean m and far from positions of
other classes, which are drawn the more often the more alike the classes are:

    L = S(f(x_l), y_l) + w(t) * S(f(x_u), q) + v * R,   S = (CE + Dice) / 2
    R = mean_c mean_z -log(e^(cos(z, m_c)/T) / (e^(cos(z, m_c)/T) + sum_n e^(cos(z, z_n)/T)))

Page: docs/methods/reco.md      python code/train_ReCo.py --dataset NEU-Seg
"""
from dataclasses import dataclass
from functools import partial

import torch

from engine import Count, NotNegative, Options, Positive, Presets, Run, Share, launch
from losses import supervised_loss
from losses.contrast import regional_contrast, regions
from networks import ema_update, feature_channels, frozen_copy, logits_and_features, logits_of


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """Weight of the teacher's labels once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    contrast_weight: NotNegative = 0.1
    """v, 0 or more; constant."""
    ema_decay: Share = 0.99
    """Share of the old teacher in the moving average, 0 to 1."""
    confidence: NotNegative = 0.7
    """How sure a teacher must be of a position that is contrasted; what it labels counts anyway."""
    hard_below: NotNegative = 0.97
    """A position is hard where the student gives its class less than this."""
    temperature: Positive = 0.5
    """T, above 0."""
    queries: Count = 256
    """Hard positions that are drawn of each class."""
    negatives: Count = 256
    """Positions of other classes that each of them is contrasted with."""
    vector: Count = 128
    """Numbers in a vector z."""


PRESETS: Presets = {
    "NEU-Seg": dict(batch_size=24, labeled_bs=12, steps_per_epoch=127, val_every=127,
                    max_iterations=76073),
}


def losses(student, teacher, projection, batch, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    read = partial(logits_and_features, student)
    (logits_l, maps_l), (logits_u, maps_u) = logits_of(read, batch.labeled, batch.unlabeled,
                                                       options.passes)
    with torch.no_grad():
        sureness, pseudo_u = teacher(batch.unlabeled).softmax(1).max(1)
        p = torch.cat([logits_l, logits_u]).softmax(1)
    sure = sureness >= options.confidence
    said = torch.cat([batch.labels, pseudo_u.masked_fill(~sure, 255)])
    valid, hard = regions(said, p, options.hard_below)
    features = torch.cat([maps_l, maps_u]).movedim(1, -1).flatten(0, -2)

    supervised = supervised_loss(logits_l, batch.labels, options.dice)
    unsupervised = supervised_loss(logits_u, pseudo_u, options.dice)
    contrast = regional_contrast(features, projection, valid, hard, options.temperature,
                                 options.queries, options.negatives)
    total = supervised + weight * unsupervised + options.contrast_weight * contrast
    return {"total": total, "supervised": supervised, "unsupervised": unsupervised,
            "contrast": contrast, "pseudo_labels": pseudo_u, "mask": sure}


def main(options: Method) -> None:
    run = Run(options)
    student = run.network("student")
    width = feature_channels(student, run.data.channels, options.patch_size)
    projection = run.network("projection", model="projection", in_features=width,
                             out_features=options.vector)
    teacher = run.keep("teacher", frozen_copy(student), train=True)
    optimizer = run.optimizer("student", [(student, 1.0), (projection, 1.0)])
    step_losses = run.compiled(losses)
    run.evaluates(student=student, teacher=teacher)

    for step, batch in run.batches():
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        terms = step_losses(student, teacher, projection, batch, weight, options)
        run.update(optimizer, terms)
        ema_update(teacher, student, step, options.ema_decay)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
