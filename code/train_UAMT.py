"""UA-MT: uncertainty-aware mean teacher (Yu et al., MICCAI 2019, arXiv 1907.07034).

Mean teacher, but the student must agree only where the teacher is sure. How sure it is tells the entropy u of the mean of several
predictions that it makes under dropout and noise; the entropy that is admitted rises during training:

    L = (CE + Dice)(student(x_l), y_l) / 2 + w(t) * sum_{u < H(t)} |softmax student(x_u) - softmax teacher(x_u + n)|^2 / (2 |{u < H(t)}|)
    H(t) = (3/4 + 1/4 exp(-5 (1 - t / T)^2)) ln 2

Page: docs/methods/uamt.md          python code/train_UAMT.py --dataset LA --labeled_num 16
"""
from dataclasses import dataclass
from math import log
from typing import Literal

import torch

from engine import Options, Presets, Run, launch
from engine.schedules import consistency_weight, sigmoid_rampup
from losses import batch_sums, entropy_map, softmax_mse, supervised_loss
from networks import ema_update, frozen_copy, logits_of


@dataclass
class UAMT(Options):
    consistency: float = 0.1
    """Weight of the consistency term once ramped up, 0 or more."""
    consistency_rampup: float = 200.0
    """Length of the ramp, in units of 150 steps."""
    ema_decay: float = 0.99
    """Share of the old teacher in the moving average, 0 to 1."""
    noise: float = 0.1
    """Standard deviation of the Gaussian noise on the teacher's input, clipped at twice this value."""
    teacher_passes: int = 8
    """Predictions of the teacher whose mean tells the uncertainty, an even number."""
    uncertainty_max: Literal["ln2", "lnC"] = "ln2"
    """Largest entropy of the threshold: ln 2 whatever the number of classes (published), or its logarithm."""
    consistency_norm: Literal["2", "classes"] = "2"
    """Divisor of the consistency term: 2 whatever the number of classes (published), or their number."""
    consistency_rows: Literal["unlabeled", "all"] = "unlabeled"
    """Images of the consistency term: the unlabelled ones, or all (the second published script)."""


PRESETS: Presets = {
    "LA": dict(labeled_num="16"),
    "Phantom": dict(consistency_rampup=1.0),
}


def noisy(images, options):
    """images + n, n from a normal distribution clipped at two standard deviations."""
    return images + (options.noise * torch.randn_like(images)).clamp(-2 * options.noise, 2 * options.noise)


@torch.no_grad()
def uncertainty(teacher, images, options):
    """Entropy of the mean of `teacher_passes` predictions, (B, 1, *spatial); two of them a call, as published."""
    twice = torch.cat([images, images])
    total = sum(teacher(noisy(twice, options)).softmax(1) for _ in range(options.teacher_passes // 2))
    mean = (total[: len(images)] + total[len(images) :]) / options.teacher_passes
    return entropy_map(mean)


def losses(student, teacher, batch, weight, threshold, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    n = batch.n_labeled
    first, images = (n, batch.unlabeled) if options.consistency_rows == "unlabeled" else (0, batch.images)
    with torch.no_grad():
        target = teacher(noisy(images, options))
    logits = logits_of(student, batch.labeled, batch.unlabeled, options.passes)
    sure = uncertainty(teacher, images, options) < threshold

    supervised = supervised_loss(logits[:n], batch.labels, options.dice)
    divisor = 2 if options.consistency_norm == "2" else logits.shape[1]
    distance, count = batch_sums((sure * softmax_mse(logits[first:], target)).sum(), sure.sum())
    consistency = distance / (divisor * count + 1e-16)
    return {"total": supervised + weight * consistency, "supervised": supervised, "consistency": consistency, "mask": sure}


def admitted(step, options, num_classes):
    """H(t), the entropy below which the teacher counts as sure."""
    largest = log(2) if options.uncertainty_max == "ln2" else log(num_classes)
    return (0.75 + 0.25 * sigmoid_rampup(step, options.max_iterations)) * largest


def main(options: UAMT) -> None:
    run = Run(options)
    odd = options.teacher_passes < 2 or options.teacher_passes % 2
    run.refuse(odd, f"--teacher_passes {options.teacher_passes}: an even number from 2 on is needed.")
    student = run.network("student")
    teacher = run.keep("teacher", frozen_copy(student), train=True)
    optimizer = run.optimizer("student", student)
    step_losses = run.compiled(losses)
    run.evaluates(student=student, teacher=teacher)

    for step, batch in run.batches():
        weight = consistency_weight(step, options.consistency, options.consistency_rampup, whole=options.whole_ramp)
        terms = step_losses(student, teacher, batch, weight, admitted(step, options, run.data.num_classes), options)
        run.update(optimizer, terms)
        ema_update(teacher, student, step, options.ema_decay)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, UAMT, PRESETS)
