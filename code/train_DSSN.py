"""DSSN, dual-level Siamese structure network (Tian et al., ACM MM 2023, arXiv 2307.13938).

UniMatch with two predictions from dropped channels (f_d, f_e), each pair of which must agree, a
teacher f' that labels the strong views, and a threshold for every class of every image:

    L = (S(f(x_l), y_l) + [U(s_1, q'_1) + U(s_2, q'_2) + U(f_d, q) + U(f_e, q)] / 4
         + a [D(s_1, s_2) + D(f_d, f_e)]) / 2,   q = argmax f(x_u),   q' = argmax f'(x_u)
    U: cross-entropy where a class has 96 % of the best probability that it reaches in the image
    D: mean squared difference of logits that are standardised over the classes of each pixel

Page: docs/methods/dssn.md      python code/train_DSSN.py --dataset ACDC
"""
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch

from dataloaders.augmentation.ctaugment import some_operations
from dataloaders.augmentation.strong_views import others_of, pasted_view
from engine import Fill, NotNegative, Options, Presets, Run, Share, Steps, Within, launch
from losses import labels_loss, standardised_mse
from losses.pseudo_labels import class_aware, kept_cross_entropy
from networks import average_weights, frozen_copy, logits_of, logits_with_dropped_channels


@dataclass
class Method(Options):
    selection: Literal["class_aware", "none"] = "class_aware"
    """Which pixels teach: the sure ones of each class, or all (published for Cityscapes)."""
    strong_weight: NotNegative = 0.5
    """Weight of the strong views together."""
    feature_weight: NotNegative = 0.5
    """Weight of the predictions from dropped channels together."""
    alignment_weight: NotNegative = 0.01
    """a, the weight of the pairs' agreement."""
    feature_dropout: Annotated[float, Within(0, 1, open_high=True)] = 0.5
    """Share of the channels of each map that are dropped."""
    ema_decay: Share = 0.996
    """Share of the old teacher in the moving average, 0 to 1."""
    warmup_epochs: Steps = 0
    """Epochs in which the teacher is the student and strong views teach nothing; 0: the first
    step alone."""
    min_kept: Steps = 0
    """0: labelled images teach by S; else by the cross-entropy of hard pixels, so many at least of
    a batch (published: 200,000 of two images)."""
    mix: Literal["shuffled", "other", "same"] = "shuffled"
    """What boxes show: another image of the batch, one of a second draw, or the same image in
    another weak view (published)."""
    jitter: Annotated[tuple[float, float, float, float], Within(0)] = (0.5, 0.5, 0.5, 0.25)
    """Brightness, contrast, saturation and hue of 80 % of the strong views."""
    grey: Share = 0.2
    """Share of the strong views that lose their colours."""
    blur: Share = 0.5
    """Share of the strong views that are blurred, by a Gaussian of 0.1 to 2 pixels."""
    operations: bool = False
    """Strong views are changed further, by one to three of eleven operations (for VOC)."""


PRESETS: Presets = {
    "2D": dict(dice="none"),
    "natural": dict(mix="same"),
    "VOC2012": dict(patch_size=(513, 513), base_lr=2e-3, max_iterations=131100,
                    operations=True),
    "Cityscapes": dict(selection="none", min_kept=800000, warmup_epochs=5, steps_per_epoch=348),
    "blended": dict(max_iterations=124000),
    "u2pl": dict(max_iterations=124000),
    "standin": dict(patch_size=(129, 129), base_lr=0.01, max_iterations=2000),
}


def losses(student, teacher, batch, views, others, inside_m, warm, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    f = partial(logits_with_dropped_channels, student, share=options.feature_dropout, times=2)
    (logits_l, *_), (logits_u, *logits_d) = logits_of(f, batch.labeled, batch.unlabeled,
                                                      options.passes)
    logits_s = student(torch.cat([view for view, _ in views])).chunk(2)
    with torch.no_grad():
        logits_t, logits_m = teacher(batch.unlabeled), teacher(others)
    inside_u, logits_w = batch.maps["inside"][batch.n_labeled:], logits_u.detach()
    targets = [torch.where(box, logits_m, logits_t) for _, box in views]
    counted = [torch.where(box[:, 0], inside_m, inside_u) for _, box in views]

    def taught(logits, target, inside):
        sure = class_aware(target) if options.selection == "class_aware" else inside > 0
        return kept_cross_entropy(logits, target.argmax(1), sure, inside)

    supervised = labels_loss(logits_l, batch.labels, options.dice, options.min_kept)
    strong = (1 - warm) * sum(map(taught, logits_s, targets, counted)) / 2
    features = sum(taught(logits, logits_w, inside_u) for logits in logits_d) / 2
    alignment = standardised_mse(*logits_s).mean() + standardised_mse(*logits_d).mean()
    total = (supervised + options.strong_weight * strong + options.feature_weight * features
             + options.alignment_weight * alignment) / 2
    return {"total": total, "supervised": supervised, "strong": strong, "features": features,
            "alignment": alignment, "pseudo_labels": targets[0].argmax(1),
            "mask": class_aware(targets[0]), "s_1": views[0][0][:, 0]}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(run.data.dimensions == 3, f"DSSN is for images, and {run.data.name} has volumes; "
               "train_MeanTeacher.py takes them.")
    student = run.network("student")
    teacher = run.keep("teacher", frozen_copy(student), train=False)
    optimizer = run.optimizer("student", student)
    step_losses = run.compiled(losses)
    run.evaluates(student=student, teacher=teacher)

    further = some_operations if options.operations else None
    views, draws = 1 + (options.mix == "same"), 1 + (options.mix == "other")
    for step, batch in run.batches(maps={"inside": Fill(1, 0, 0)}, views=views, draws=draws):
        others, inside_m = others_of(batch, options.mix)
        strong = [pasted_view(batch.unlabeled, others, batch.rng, options.jitter, options.grey,
                              options.blur, run.data, further) for _ in "12"]
        warm = float(step == 0 or batch.epoch < options.warmup_epochs)
        terms = step_losses(student, teacher, batch, strong, others, inside_m, warm, options)
        run.update(optimizer, terms)
        average_weights(teacher, student, 0 if warm else options.ema_decay, buffers=True)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
