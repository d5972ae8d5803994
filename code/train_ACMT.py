"""AC-MT: ambiguity-consensus mean teacher (Xu et al., Medical Image Analysis, 2023).

Mean Teacher, but the student f must agree with the teacher f' only where it is ambiguous, for there
the unlabelled images teach most (the opposite of UA-MT). Ambiguous is, by --ambiguity,
    entropy             H(softmax f(x_u)) >= h(t) ln C,   h(t) = 3/4 + 1/5 exp(-5 (1 - t / T)^2)
    model_uncertainty   the same of the mean of several noisy predictions of f
    prototypes          f's class is not that of the nearest prototype among the features of f'
    label_errors        f's class, as a label, is wrong by confident learning with softmax f'(x_u)

    L = S(f(x_l), y_l) + w(t) * mean_{ambiguous} |softmax f(x_u) - softmax f'(x_u + n)|^2

Page: docs/methods/ac_mt.md      python code/train_ACMT.py --dataset LA
"""
from dataclasses import dataclass
from math import log
from typing import Annotated, Literal

import torch

from engine import NotNegative, Options, Presets, Run, Share, Within, launch
from engine.schedules import sigmoid_rampup
from losses import batch_sums, entropy_map, softmax_mse, supervised_loss
from losses.ambiguity import far_from_prototype, label_errors
from networks import ema_update, frozen_copy, logits_of, noisy


@dataclass
class Method(Options):
    variant: Literal["default", "published_code"] = "default"
    """published_code: with prototypes, an image's entropy is masked by every image's map."""
    ambiguity: Literal["entropy", "model_uncertainty", "prototypes", "label_errors"] = "entropy"
    """What counts as ambiguous."""
    consistency: NotNegative = 0.1
    """Weight of the unsupervised term once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    ema_decay: Share = 0.99
    """Share of the old teacher in the moving average, 0 to 1."""
    noise: NotNegative = 0.1
    """Standard deviation of the Gaussian noise on inputs, clipped at twice that."""
    entropy_start: Share = 0.75
    """Least entropy that is ambiguous at the start, as a share of the largest."""
    entropy_end: Annotated[float | None, Within(0, 1, open_low=True)] = None
    """The same at the end. Without it: 0.95, with model_uncertainty 0.9."""
    further_passes: Annotated[int | None, Within(2)] = None
    """Further predictions for model_uncertainty (without it: 8) and prototypes (10), 2 or more."""
    certainty: NotNegative = 0.1
    """Prototypes: the teacher is certain of a class whose deviation over passes is below it."""
    clear_entropy: Literal["own", "all"] = "own"
    """Prototypes: entropy is lowered where an image's own map, or all maps, find it clear."""


PRESETS: Presets = {
    "LA": dict(max_iterations=8000, schedule="poly", dice="squared"),
    "published_code": dict(clear_entropy="all"),
}


def admitted(step, options):
    """h(t), the least entropy that is ambiguous, as a share of the largest."""
    end = options.entropy_end or (0.9 if options.ambiguity == "model_uncertainty" else 0.95)
    rise = sigmoid_rampup(step, options.max_iterations)
    return options.entropy_start + (end - options.entropy_start) * rise


def entropy(probabilities):
    """As a share of the largest, (B, 1, *sides)."""
    return entropy_map(probabilities) / log(probabilities.shape[1])


@torch.no_grad()
def ambiguous_where(student, teacher, images, logits, threshold, options):
    """The ambiguous positions of unlabelled images, (B, 1, *sides) bool."""
    if options.ambiguity == "entropy":
        return entropy(logits.softmax(1)) >= threshold
    if options.ambiguity == "model_uncertainty":
        passes = [student(noisy(images, options.noise)) for _ in range(options.further_passes or 8)]
        return entropy(torch.stack(passes).softmax(2).mean(0)) >= threshold
    clean, labels = teacher(images).softmax(1), logits.argmax(1)
    if options.ambiguity == "label_errors":
        wrong = label_errors(labels.flatten(), clean.movedim(1, -1).flatten(0, -2))
        return wrong.view_as(labels).unsqueeze(1)
    maps = (teacher.encode(images) for _ in range(options.further_passes or 10))
    passes = [(teacher.head(teacher.decode(x)), teacher.decode(x[1:])) for x in maps]
    further, features = map(torch.stack, zip(*passes))  # features of half the sides
    return far_from_prototype(features.mean(0), further, clean, labels, options.certainty)


def losses(student, teacher, batch, weight, threshold, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    logits_l, logits_u = logits_of(student, batch.labeled, batch.unlabeled, options.passes)
    with torch.no_grad():
        target = teacher(noisy(batch.unlabeled, options.noise))
    ambiguous = ambiguous_where(student, teacher, batch.unlabeled, logits_u, threshold, options)

    supervised = supervised_loss(logits_l, batch.labels, options.dice)
    squares, count = batch_sums((ambiguous * softmax_mse(logits_u, target)).sum(), ambiguous.sum())
    divisor = 1 if options.ambiguity == "model_uncertainty" else logits_u.shape[1]
    consistency = squares / (divisor * count + 1e-16)
    terms = {"supervised": supervised, "consistency": consistency}
    if options.ambiguity == "prototypes":
        parts = (~ambiguous).float(), entropy(logits_u.softmax(1))
        clear, unsure = parts if options.clear_entropy == "own" else [x.mean(0) for x in parts]
        terms["entropy"] = (clear * unsure).mean()
    return {"total": supervised + weight * (consistency + terms.get("entropy", 0)), **terms,
            "mask": ambiguous, "images": batch.unlabeled, "ambiguous": ambiguous}


def main(options: Method) -> None:
    run = Run(options)
    has_half = options.model not in ("efficient_unet", "enet", "pnet")
    run.refuse(options.ambiguity == "prototypes" and not has_half, "--ambiguity prototypes reads "
               f"features of half the sides, and {options.model} has none: take another --model.")
    student = run.network("student")
    teacher = run.keep("teacher", frozen_copy(student), train=True)
    optimizer = run.optimizer("student", student)
    step_losses = run.compiled(losses)
    run.evaluates(student=student, teacher=teacher)

    for step, batch in run.batches():
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        terms = step_losses(student, teacher, batch, weight, admitted(step, options), options)
        run.update(optimizer, terms)
        ema_update(teacher, student, step, options.ema_decay)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
