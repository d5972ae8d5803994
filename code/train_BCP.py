"""BCP: bidirectional copy-paste (Bai et al., CVPR 2023, arXiv 2305.00673).

The labelled images of a batch are parted into a and b, the unlabelled ones into u and v. Through a
box M (1 inside, 0 outside, the same for all) a is pasted into u, and v into b. Each part is learned
from labels of its own, for u and v those of a teacher f', the moving average of the network f:

    x_1 = M a + (1 - M) u,   x_2 = M v + (1 - M) b,   q = largest components of argmax f'
    L = S(f(x_1), y_a; M) + w S(f(x_1), q_u; 1 - M) + w S(f(x_2), q_v; M) + S(f(x_2), y_b; 1 - M)

S = (CE + Dice) / 2 where its last argument is 1. A first stage, whose best step starts f and f',
learns from labelled images alone, a pasted into b.

Page: docs/methods/bcp.md      python code/train_BCP.py --dataset ACDC
"""
from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from dataloaders.augmentation.copy_paste import paste_box
from engine import NotNegative, Options, Presets, Run, Share, Steps, Within, launch
from losses.mixtures import halves, labeled_mixture_loss, mixture_loss
from losses.pseudo_labels import likeliest
from networks import average_weights, frozen_copy, logits_of


@dataclass
class Method(Options):
    variant: Literal["default", "published_code"] = "default"
    """published_code: for images --part_dice unmasked, with which the figures of ACDC were made;
    the authors have mended it since. Volumes have the published code by default."""
    pre_iterations: Steps = 10000
    """Steps of the first stage, on labelled images alone; --max_iterations is the second's."""
    u_weight: NotNegative = 0.5
    """w, the weight of the parts that have pseudo-labels, 0 or more."""
    box: Annotated[float, Within(0, 1, open_low=True, open_high=True)] = 2 / 3
    """Sides of the box as a share of the image's, above 0, below 1."""
    largest_component: bool = True
    """Keep of each class of a pseudo-label the largest connected component alone."""
    part_dice: Literal["batch", "unmasked", "sample"] = "batch"
    """Dice of a part: of the whole batch, squared (ACDC); the same with a background that is never
    masked; of each image, linear (LA, where the first stage does not part the mixed labels)."""
    ema_decay: Share = 0.99
    """Share of the old teacher in the moving average, 0 to 1; without a warm-up."""
    ema_buffers: bool = True
    """Average the teacher's batch-norm statistics too (published on ACDC, not on LA)."""


PRESETS: Presets = {
    "2D": dict(schedule="constant", passes="apart"),
    "3D": dict(passes="apart", part_dice="sample", ema_buffers=False, batch_size=8, labeled_bs=4),
    "defect": dict(schedule="plateau", largest_component=False),
    "folder": dict(largest_component=False),
    "LA": dict(pre_iterations=2000, max_iterations=15000, val_every=200),
    "Pancreas-CT": dict(pre_iterations=1800, max_iterations=5000, val_every=500, optimizer="adam",
                        base_lr=1e-3, schedule="constant"),
    "Phantom": dict(pre_iterations=100),
    "published_code_2D": dict(part_dice="unmasked"),
}


def losses(student, teacher, batch, box, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    (a, b), (u, v), (y_a, y_b) = map(halves, (batch.labeled, batch.unlabeled, batch.labels))
    with torch.no_grad():
        said = logits_of(teacher, u, v, options.passes)
    q_u, q_v = (likeliest(z, options.largest_component) for z in said)
    x_1, x_2 = torch.where(box, a, u), torch.where(box, v, b)
    logits_1, logits_2 = logits_of(student, x_1, x_2, options.passes)

    w = options.u_weight
    inside = mixture_loss(logits_1, q_u, y_a, box, (w, 1), options.part_dice)
    outside = mixture_loss(logits_2, y_b, q_v, box, (1, w), options.part_dice)
    learned = torch.cat([torch.where(box, y_a, q_u), torch.where(box, q_v, y_b)])
    return {"total": inside + outside, "labeled_inside": inside, "labeled_outside": outside,
            "pseudo_labels": torch.cat([q_u, q_v]),
            "mixed_images": torch.cat([x_1, x_2]), "mixed_labels": learned}


def pretrained(run, options):
    """The network of the first stage, at its best."""
    stage = run.stage("pretrain", iterations=options.pre_iterations)
    student = stage.network("student")
    optimizer = stage.optimizer("student", student, schedule="constant")
    step_losses = stage.compiled(labeled_mixture_loss)
    stage.evaluates(student=student)
    for step, batch in stage.batches(labeled_only=True, batch_size=options.labeled_bs):
        box = paste_box(batch.shared_rng, options.patch_size, options.box, run.device)
        terms = step_losses(student, batch.images, batch.labels, box, options.part_dice)
        stage.update(optimizer, terms)
        stage.after_step(step, terms)
    return run.best("pretrain", "student")


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(options.batch_size != 2 * options.labeled_bs,
               "BCP pastes images into one another: --batch_size must be twice --labeled_bs.")
    student = run.network("student")
    student.load_state_dict(pretrained(run, options).state_dict())
    teacher = run.keep("teacher", frozen_copy(student), train=True)
    optimizer = run.optimizer("student", student)
    step_losses = run.compiled(losses)
    run.evaluates(student=student, teacher=teacher)

    for step, batch in run.batches():
        box = paste_box(batch.shared_rng, options.patch_size, options.box, run.device)
        terms = step_losses(student, teacher, batch, box, options)
        run.update(optimizer, terms)
        average_weights(teacher, student, options.ema_decay, options.ema_buffers)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
