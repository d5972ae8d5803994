"""FixMatch for segmentation (Sohn et al., NeurIPS 2020, arXiv 2001.07685; variants: SSL4MIS after PseudoSeg and ReMixMatch).

What a teacher, the moving average of the student's weights, is sure of in a weak view of an unlabelled image is the label that the
student must find in a strong view s(x) of it, which differs in appearance only:

    L = (CE + Dice)(f(x_l), y_l) / 2 + w(t) * (CE + Dice)(f(s(x_u)), q) / 2,   p = softmax f'(x_u)
    q = argmax p where max p >= tau; elsewhere the pixel is not counted

Page: docs/methods/fixmatch.md          python code/train_FixMatch.py --dataset ACDC --labeled_num 7
"""
from dataclasses import dataclass
from typing import Literal

import torch

from dataloaders.augmentation.ctaugment import CTAugment
from dataloaders.augmentation.strong_views import color_jitter, cutout, gaussian_blur
from engine import Options, Presets, Run, launch
from losses import batch_mean, supervised_loss
from losses.pseudo_labels import complementary_loss, concentration, hard_labels
from networks import ema_update, frozen_copy, logits_of


@dataclass
class FixMatch(Options):
    variant: Literal["default", "published_standard", "published_cta"] = "default"
    """default: ours, FixMatch as its paper has it with a moving average as teacher. published_standard, published_cta: SSL4MIS's
    train_fixmatch_standard_augs.py and train_fixmatch_cta.py, by the values of the options below."""
    consistency: float = 0.1
    """Weight of the strong views once ramped up, 0 or more."""
    consistency_rampup: float = 200.0
    """Length of the ramp, in units of 150 steps."""
    ema_decay: float = 0.99
    """Share of the old teacher in the moving average, 0 to 1."""
    pseudo_labels: Literal["teacher", "student"] = "teacher"
    """Who says what is in a weak view; the student only with --rows all."""
    confidence: float = 0.95
    """tau, 0 to 1. With --unsure background of (max p - min p) / max p, which must be above it."""
    unsure: Literal["ignore", "background"] = "ignore"
    """Pixels below tau: not counted, or background."""
    half: bool = True
    """Half of cross-entropy and Dice, as elsewhere in this suite, or their sum."""
    rows: Literal["unlabeled", "all"] = "unlabeled"
    """The student sees each image in one view, strong if it is unlabelled; or all images in both."""
    complementary: bool = False
    """Add the negative learning of the least likely class (CLS, arXiv 2202.08502)."""
    weak_view: Literal["dataset", "turn_flip"] = "dataset"
    """Weak view: the data set's own augmentation, or quarter turns and flips alone."""
    strong_view: Literal["jitter", "ctaugment"] = "jitter"
    """Strong view: jitter, blur and cutout, or both views by CTAugment's learned policy."""
    jitter: tuple[float, float, float, float] = (0.8, 0.8, 0.8, 0.2)
    """Brightness, contrast, saturation, hue; the last two act on three channels only."""
    blur: float = 0.0
    """Share of the strong views that are blurred, by a Gaussian of 0.1 to 2 pixels."""
    cutout: float = 0.0
    """Share of the strong views with a black box of 2 to 40 % of the image."""
    min_foreground: float = 0.0
    """Above 0: a batch whose labelled pixels are foreground at this share or less changes no weight."""


PRESETS: Presets = {
    "Phantom": dict(consistency=0.5, consistency_rampup=2.0),
    "published_standard": dict(pseudo_labels="student", confidence=0.8, unsure="background", half=False, rows="all", complementary=True,
                               weak_view="turn_flip"),
    "published_cta": dict(confidence=0.0, half=False, rows="all", strong_view="ctaugment", min_foreground=0.02, schedule="poly_next"),
}


def strong_views(batch, data, options):
    """s(x): the same places in other colours; by the learned policy, or on the device with numbers from `batch.rng`."""
    first = 0 if options.rows == "all" else batch.n_labeled
    if batch.strong is not None:
        return batch.strong[first:]
    scale = {"mean": data.mean, "std": data.std}
    images = color_jitter(batch.images[first:], batch.rng, *options.jitter, **scale)
    return cutout(gaussian_blur(images, batch.rng, probability=options.blur), batch.rng, probability=options.cutout, **scale)


def losses(student, teacher, batch, views, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised. views: strong ones, of `options.rows`."""
    n, whole = batch.n_labeled, 1 if options.half else 2
    if options.rows == "all":  # all images in both views, a pass each
        weak = torch.cat(logits_of(student, batch.labeled, batch.unlabeled, options.passes))
        strong_logits = torch.cat(logits_of(student, views[:n], views[n:], options.passes))
    else:
        weak, strong_logits = logits_of(student, batch.labeled, views, options.passes)
    with torch.no_grad():
        target = weak.detach() if options.pseudo_labels == "student" else teacher(batch.images[-len(views) :])
    unlabeled = len(batch.unlabeled)
    labels = hard_labels(target[-unlabeled:], options.confidence, options.unsure)

    terms = {"supervised": whole * supervised_loss(weak[:n], batch.labels, options.dice),
             "unsupervised": whole * supervised_loss(strong_logits[-unlabeled:], labels, options.dice)}
    if options.complementary:
        terms["complementary"] = complementary_loss(strong_logits, target)
        terms["unsupervised"] = terms["unsupervised"] + concentration(strong_logits) * terms["complementary"]  # so it enters squared
    return {"total": terms["supervised"] + weight * terms["unsupervised"], **terms, "pseudo_labels": labels, "mask": labels != 255}


def main(options: FixMatch) -> None:
    run = Run(options)
    run.refuse(run.data.dimensions == 3, f"FixMatch is for images, and {run.data.name} has volumes; train_MeanTeacher.py takes them.")
    run.refuse(options.pseudo_labels == "student" and options.rows != "all",
               "--pseudo_labels student: the student must see the weak views too; add --rows all.")
    student = run.network("student")
    teacher = run.keep("teacher", frozen_copy(student), train=True)
    policy = run.keep("policy", CTAugment(run.data, options.seed)) if options.strong_view == "ctaugment" else None
    optimizer = run.optimizer("student", student)
    step_losses = run.compiled(losses)
    run.evaluates(student=student, teacher=teacher)

    for step, batch in run.batches(augment=policy, recipe="turn_flip" if options.weak_view == "turn_flip" else None):
        views = strong_views(batch, run.data, options)
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        terms = step_losses(student, teacher, batch, views, weight, options)
        if not options.min_foreground or batch_mean((batch.labels % 255 > 0).float().mean()) > options.min_foreground:
            run.update(optimizer, terms)
            ema_update(teacher, student, step, options.ema_decay)
            if policy:
                policy.note(1 - terms["total"].detach() / 4)
        if policy and batch.last_of_epoch:
            policy.update(batch.shared_rng)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, FixMatch, PRESETS)
