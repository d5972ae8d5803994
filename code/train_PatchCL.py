"""PatchCL: pseudo-label guided patch contrast (Basak and Yin, CVPR 2023). A RE-IMPLEMENTATION.

The published repository has the contrastive loss, not the training. Patches of one class each, cut
by labels y and by pseudo-labels of the moving average f', are to lie near the remembered ones of
their class, a Gaussian, and far from those of all others:

    L = S(f(x_l), y_l) + w mean |softmax f(x_u) - softmax f'(x_u + n)|^2
        + u mean_v ln[e^(E_c) + (k / K) sum_(j != c) e^(E_j)] - v m_c / T,   S = (CE + Dice) / 2
    E_j = v m_j / T + s v^T C_j v / (2 T^2),   v = h(f(patch of class c)) of length 1

m_j and C_j are mean and covariance of what f' and h' made of class j's patches, of other classes
the hard ones alone. A first stage, whose best step starts f and f', learns from labels alone.

Page: docs/methods/patchcl.md      python code/train_PatchCL.py --dataset ACDC
"""
from dataclasses import dataclass
from functools import partial

import torch

from dataloaders.augmentation.patches import class_patches, patch_draws, patch_sides
from engine import Count, NotNegative, Options, Positive, Presets, Run, Share, Steps, launch
from engine.first_stage import supervised_stage
from losses import softmax_mse, supervised_loss
from losses.correlation import Queues, gaussian_contrast
from losses.pseudo_labels import hard_labels
from networks import average_weights, deepest, deepest_width, frozen_copy, logits_of, noisy
from networks.passes import statistics_kept


@dataclass
class Method(Options):
    pre_iterations: Steps = 10000
    """Steps of the first stage, on labelled images alone; --max_iterations is the second's."""
    pre_lr: Positive = 1e-3
    """Constant rate of the first stage, by Adam."""
    consistency: NotNegative = 4.0
    """w, the weight of agreement with the teacher, 0 or more."""
    contrast_weight: NotNegative = 0.5
    """u, the weight of the contrast of patches, 0 or more."""
    temperature: Positive = 0.2
    """T, above 0."""
    spread: NotNegative = 4.0
    """s, the weight of covariances, 0 or more."""
    keys: Count = 4096
    """k; and so many patches of each class are remembered at most."""
    hard: Share = 0.5
    """Share of another class's patches that count: those most like the class in question."""
    patches: Count = 2
    """Patches cut from each image, labelled or not."""
    least: Share = 0.25
    """Smallest side of a patch as a share of the image's; the largest is the whole image."""
    confidence: Share = 0.8
    """Least probability at which a pixel is cut out as one of its pseudo-label."""
    noise: NotNegative = 0.1
    """Standard deviation of the noise on the teacher's input, clipped at twice that."""
    ema_decay: Share = 0.999
    """Share of the old teacher in the moving average, 0 to 1."""


PRESETS: Presets = {
    "ACDC": dict(base_lr=0.007),
    "Phantom": dict(pre_iterations=100),
}


def losses(students, teachers, queues, batch, draws, sides, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    (student, head), (teacher, teacher_head) = students, teachers
    with torch.no_grad():
        target = teacher(noisy(batch.unlabeled, options.noise))
        pseudo_u = hard_labels(target, options.confidence)
    logits_l, logits_u = logits_of(student, batch.labeled, batch.unlabeled, options.passes)
    labels = torch.cat([batch.labels, pseudo_u])
    cut, shown = class_patches(batch.images, labels, len(queues.keys), draws, sides, options.least)
    with statistics_kept(student, teacher):
        vectors = head(deepest(student, cut))
        with torch.no_grad():
            remembered = teacher_head(deepest(teacher, cut))
    present = queues.take(remembered, shown)

    supervised = supervised_loss(logits_l, batch.labels, options.dice)
    consistency = softmax_mse(logits_u, target).mean()
    contrast = gaussian_contrast(vectors, shown, queues.keys, present, options.temperature,
                                 options.spread, options.keys, options.hard)
    total = supervised + options.consistency * consistency + options.contrast_weight * contrast
    return {"total": total, "supervised": supervised, "consistency": consistency,
            "contrast": contrast, "pseudo_labels": pseudo_u, "mask": pseudo_u != 255, "cut": cut}


def main(options: Method) -> None:
    run = Run(options)
    run.say("PatchCL is a RE-IMPLEMENTATION: its training was never released (docs/methods/"
            "patchcl.md says what is ours).")
    student = run.network("student")
    learned = partial(supervised_loss, dice=options.dice)
    first = supervised_stage(run, options.pre_iterations, learned, options.labeled_bs, kind="adam",
                             lr=options.pre_lr, schedule="constant")
    student.load_state_dict(first.state_dict())
    sides = patch_sides(options.patch_size, student.multiple, options.least)
    width = deepest_width(student, run.data.channels, sides)
    students = student, run.network("head", model="patch_projection", features=width)
    teachers = [run.keep(name, frozen_copy(network), train=True)
                for name, network in zip(("teacher", "teacher_head"), students)]
    queues = run.keep("queues", Queues(run.data.num_classes, options.keys))
    optimizer = run.optimizer("student", [(network, 1.0) for network in students])
    step_losses = run.compiled(losses)
    run.evaluates(student=student, teacher=teachers[0])

    for step, batch in run.batches():
        draws = patch_draws(batch.rng, len(batch.images), options.patches, run.data.dimensions)
        terms = step_losses(students, teachers, queues, batch, draws, sides, options)
        run.update(optimizer, terms)
        for old, new in zip(teachers, students):
            average_weights(old, new, options.ema_decay)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
