"""IIU: inter- and intra-uncertainty (Jin et al., Expert Syst. Appl. 238, 2024, arXiv 2403.12767).

A student predicts twice, p by its main head and a by another. On unlabelled images p must agree
with t of a teacher, the moving average of the student, the less the less sure t is (inter); and
with a (intra), from which it may differ in few places only (shape). One of both sees noise:

    L = 2 S(p(x_l), y_l) + 2 S(a(x_l), y_l) + v * V + w(t) * C,   S = (CE + Dice) / 2
    C = mean (p - t')^2 + mean (p - a)^2 + mean H(|p - a|),   t' = (1 - u) t + u p,   u = -t log t

H is an entropy in bits, V the variance of p within an object. The Dice is one sum over all classes.

Page: docs/methods/iiu.md      python code/train_IIU.py --dataset NEU-Seg
"""
from dataclasses import dataclass
from math import log
from typing import Literal

import torch

from engine import NotNegative, Options, Positive, Presets, Run, Share, launch
from losses import contested, eased_mse, entropy_map, supervised_loss
from losses.uncertainty import instance_variance
from networks import average_weights, frozen_copy, grouped, risen_decay
from networks.perturbations import feature_dropout, feature_noise


@dataclass
class Method(Options):
    variant: Literal["default", "published_code"] = "default"
    """published_code: the authors' network, optimizer and first teacher, and V."""
    consistency: NotNegative = 0.1
    """Weight of C at the end of the training, 0 or more."""
    consistency_rampup: NotNegative = 300.0
    """Stairs in which it rises, over the whole training (--ramp whole)."""
    terms: str = "inter,intra,shape"
    """Which of the parts of C count, joined by commas."""
    by_disagreement: bool = False
    """Weigh inter by 1 + A, A from 0 to 1 where p and t differ most (their --mask)."""
    variance_weight: NotNegative = 0.0
    """v, 0 or more; objects are the connected components of class 1."""
    noise: NotNegative = 0.5
    """Standard deviation of the noise on an image."""
    feature_rate: Share = 0.5
    """Share of the channels that the student's main head loses on unlabelled images."""
    ema_decay: Share = 0.99
    """Largest share of the old teacher in the moving average, 0 to 1."""
    teacher_start: Literal["student", "own"] = "student"
    """The first teacher is a copy of the student, or has initial weights of its own (published)."""
    dilated: Literal[2, 4] = 2
    """pg_fanet: dilated convolutions that are summed, as published or as meant."""
    rest_rate: Positive = 1.0
    """By what the rate of all but pg_fanet's encoders is multiplied."""


COMMON = dict(dice="flat", passes="apart", ramp="whole", consistency_rampup=300.0)
PRESETS: Presets = {
    "2D": dict(model="unet_ds", **COMMON),
    "3D": dict(model="unet_3D_dv_semi", **COMMON),
    "published_code": dict(optimizer="adam", base_lr=2.5e-4, schedule="poly_warm", rest_rate=10.0,
                           variance_weight=1.0, teacher_start="own"),
    "published_code_2D": dict(model="pg_fanet"),
}
ENCODERS = ("first.", "second.")


def perturbed(features, rate):
    """What the heads read: the main one loses channels, the second may have noise."""
    main, second, *others = features
    for change in (lambda x: feature_dropout(x, (0.7, 0.9)), lambda x: feature_noise(x, 0.3)):
        second = change(second) if torch.rand(()) < 0.5 else second
    return [torch.feature_dropout(main, rate, True), second, *others]


def agreement(main, second, target, by_disagreement):
    """The parts of C before their means: inter and intra (B, C, *sides), shape a scalar."""
    p, a, t = main.softmax(1), second.softmax(1), target.softmax(1)
    inter = eased_mse(p, t) * (1 + contested(p, t) if by_disagreement else 1)
    shape = entropy_map((p - a).abs()).mean() / log(2)
    return {"inter": inter, "intra": (p - a) ** 2, "shape": shape}


def losses(student, teacher, batch, noisy_student, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    main_l, second_l = student(batch.labeled)[:2]
    views = [batch.unlabeled, batch.unlabeled + options.noise * torch.randn_like(batch.unlabeled)]
    maps = student.encode(views[noisy_student])
    main_u, second_u = student.head(perturbed(student.decode(maps), options.feature_rate))[:2]
    with torch.no_grad():
        target = teacher(views[not noisy_student])

    supervised = 2 * sum(supervised_loss(z, batch.labels, options.dice) for z in (main_l, second_l))
    variance = (instance_variance(main_l.softmax(1), batch.labels) if options.variance_weight
                else main_l.new_zeros(()))
    parts = agreement(main_u, second_u, target, options.by_disagreement)
    means = {name: parts[name].mean() for name in options.terms.split(",")}
    consistency = sum(means.values())
    total = supervised + options.variance_weight * variance + weight * consistency
    return {"total": total, "supervised": supervised, "variance": variance,
            "consistency": consistency, **means}


def main(options: Method) -> None:
    run = Run(options)
    unknown = set(options.terms.split(",")) - {"inter", "intra", "shape"}
    run.refuse(unknown, f"--terms {options.terms}: write inter, intra, shape, joined by commas.")
    run.refuse(options.passes == "joint", "--passes joint: IIU sends labelled and unlabelled "
               "images apart through its student, since unlabelled ones are perturbed.")
    given: dict = {"branches": options.dilated} if options.model == "pg_fanet" else {}
    student = run.network("student", several_heads=True, **given)
    teacher = (run.network("teacher", several_heads=True, **given).requires_grad_(False)
               if options.teacher_start == "own" else
               run.keep("teacher", frozen_copy(student), train=True))
    teacher.main_only = True
    parts = grouped(student, lambda name: 1 if name.startswith(ENCODERS) else options.rest_rate)
    optimizer = run.optimizer("student", parts, weight_decay=5e-4, clip=4.0)
    step_losses = run.compiled(losses)
    run.evaluates(teacher=teacher, student=student)

    for step, batch in run.batches():
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        coin = int(batch.shared_rng.integers(2))
        terms = step_losses(student, teacher, batch, coin, weight, options)
        run.update(optimizer, terms)
        average_weights(teacher, student, risen_decay(step, options.ema_decay), True)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
