"""UA-MT: uncertainty-aware mean teacher (Yu et al., MICCAI 2019, arXiv 1907.07034).

Mean Teacher, but the student f must agree with the teacher f' only where that is sure. How sure it
is tells the entropy u of the mean of several predictions that it makes under dropout and noise; the
entropy that is admitted rises during training:

    L = S(f(x_l), y_l) + w(t) * D / (2 |{u < H(t)}|),   S = (CE + Dice) / 2
    D = sum_{u < H(t)} |softmax f(x_u) - softmax f'(x_u + n)|^2
    H(t) = (3/4 + 1/4 exp(-5 (1 - t / T)^2)) ln 2

Page: docs/methods/uamt.md      python code/train_UAMT.py --dataset LA
Score: Dice 0.654 on ACDC at 64x64, 2,000 steps, 42 min on two CPU cores (results/acdc_small.md)
"""
from dataclasses import dataclass
from math import log
from typing import Annotated, Literal

import torch

from engine import NotNegative, Options, Presets, Run, Share, Within, launch
from engine.schedules import admitted_entropy
from losses import batch_sums, softmax_mse, supervised_loss
from networks import ema_update, entropy_over_passes, frozen_copy, logits_of, noisy


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """Weight of the unsupervised term once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    ema_decay: Share = 0.99
    """Share of the old teacher in the moving average, 0 to 1."""
    noise: NotNegative = 0.1
    """Standard deviation of the Gaussian noise on the teacher's input, clipped at twice that."""
    teacher_passes: Annotated[int, Within(2)] = 8
    """Predictions of the teacher whose mean tells the uncertainty, an even number."""
    uncertainty_max: Literal["ln2", "lnC"] = "ln2"
    """Largest threshold: ln 2 whatever the number of classes (published), or its logarithm."""
    consistency_norm: Literal["2", "classes"] = "2"
    """Divisor of the term: 2 whatever the number of classes (published), or their number."""
    consistency_rows: Literal["unlabeled", "all"] = "unlabeled"
    """Images of the term: the unlabelled ones, or all (the second published script)."""


PRESETS: Presets = {
    "LA": dict(labeled_num="16"),
}


def admitted(step, options, num_classes):
    """H(t), the entropy below which the teacher counts as sure."""
    largest = log(2) if options.uncertainty_max == "ln2" else log(num_classes)
    return admitted_entropy(step, options.max_iterations, largest)


def losses(student, teacher, batch, weight, threshold, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    everywhere = options.consistency_rows == "all"
    images = batch.images if everywhere else batch.unlabeled
    with torch.no_grad():
        target = teacher(noisy(images, options.noise))
    logits_l, logits_u = logits_of(student, batch.labeled, batch.unlabeled, options.passes)
    logits = torch.cat([logits_l, logits_u]) if everywhere else logits_u
    unsure = entropy_over_passes(teacher, images, options.teacher_passes, options.noise)
    sure = unsure < threshold

    supervised = supervised_loss(logits_l, batch.labels, options.dice)
    squares, count = batch_sums((sure * softmax_mse(logits, target)).sum(), sure.sum())
    divisor = 2 if options.consistency_norm == "2" else logits.shape[1]
    consistency = squares / (divisor * count + 1e-16)
    total = supervised + weight * consistency
    return {"total": total, "supervised": supervised, "consistency": consistency, "mask": sure}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(options.teacher_passes % 2,
               f"--teacher_passes {options.teacher_passes}: an even number from 2 on is needed.")
    student = run.network("student")
    teacher = run.keep("teacher", frozen_copy(student), train=True)
    optimizer = run.optimizer("student", student)
    step_losses = run.compiled(losses)
    run.evaluates(student=student, teacher=teacher)

    for step, batch in run.batches():
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        threshold = admitted(step, options, run.data.num_classes)
        terms = step_losses(student, teacher, batch, weight, threshold, options)
        run.update(optimizer, terms)
        ema_update(teacher, student, step, options.ema_decay)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
