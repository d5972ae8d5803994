"""ABD: adaptive bidirectional displacement (Chi et al., CVPR 2024), on cross teaching. 2D only.

A U-Net f_1 sees a weak view x_1 of each image, a Swin-UNet f_2 a strong one x_2, and each learns
what the other says (j = 3 - k), as in cross teaching. Both also learn from displaced views d. Of an
unlabelled image the patch a network is least sure of is replaced by one that the other is sure of
and that looks most alike to it; of a labelled one the surest by the other's least sure, with label:

    L = sum_k [S(f_k(x_k,l), y_k) + 2 S(f_k(d_l), y_d)]
        + w(t) * sum_k [D(f_k(x_k,u), argmax f_j(x_j,u)) + D(f_k(d_u), argmax f_j(d_u))]

D is the Dice loss, S = (CE + Dice) / 2.

Page: docs/methods/abd_cross_teaching.md      python code/train_ABDCrossTeaching.py --dataset ACDC
"""
from dataclasses import dataclass
from typing import Literal

import torch

from dataloaders.augmentation.displacement import (
    check_grid,
    displaced,
    sure_into_unsure,
    unsure_into_sure,
)
from dataloaders.augmentation.strong_views import cutout_view, send
from engine import Count, NotNegative, Options, Positive, Presets, Run, Share, Steps, launch
from losses import dice_loss, supervised_loss
from losses.pseudo_labels import likeliest
from networks import logits_of


@dataclass
class Method(Options):
    model2: str = "swin_unet"
    """The other network, beside --model (published: unet and swin_unet; any two for images)."""
    optimizer2: Literal["same", "sgd", "adam"] = "same"
    """Of the other network: as --optimizer (published), or one of its own. Without --pretrained a
    transformer learns better with adam."""
    base_lr2: Positive | None = None
    """Learning rate of the other network at the start. Without it: --base_lr (published)."""
    consistency: NotNegative = 0.1
    """Weight of the unsupervised terms once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    grid: tuple[int, ...] = (4, 4)
    """Patches along each axis, of which the sides of the images are multiples."""
    candidates: Count = 4
    """Of so many of its surest patches a network chooses one."""
    displaced_share: Share = 0.5
    """Share of the labelled images that are displaced, 0 to 1."""
    displaced_weight: NotNegative = 2.0
    """Weight of displaced labelled images, 0 or more."""
    displaced_until: Steps = 20000
    """The last step in which they have that weight; afterwards they have none."""


PRESETS: Presets = {
    **dict.fromkeys(("ISIC", "defect"), dict(patch_size=(224, 224))),
    "ACDC": dict(patch_size=(224, 224), batch_size=16, labeled_bs=8, schedule="poly_next"),
    "PROMISE12": dict(patch_size=(224, 224), batch_size=16, labeled_bs=8, schedule="poly_next",
                      displaced_weight=1.0, displaced_until=30000),
    "Phantom": dict(consistency_rampup=2.0),
}


def losses(model1, model2, batch, strong, strong_labels, which, weight, weight_l, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    n, grid = batch.n_labeled, options.grid
    logits1_l, logits1_u = logits_of(model1, batch.labeled, batch.unlabeled, options.passes)
    logits2_l, logits2_u = logits_of(model2, strong[:n], strong[n:], options.passes)
    pseudo1_u, pseudo2_u = likeliest(logits1_u), likeliest(logits2_u)
    moves_l = unsure_into_sure(logits1_l, logits2_l, grid)
    images_l = displaced(batch.labeled, strong[:n], moves_l, grid, which)
    labels = displaced(batch.labels[:, None], strong_labels[:, None], moves_l, grid, which)[:, 0]
    moves_u = sure_into_unsure(logits1_u, logits2_u, grid, options.candidates)
    images_u = displaced(batch.unlabeled, strong[n:], moves_u, grid)
    moved1_l, moved2_l = model1(images_l), model2(images_l)
    moved1_u, moved2_u = model1(images_u), model2(images_u)

    supervised = {"supervised_1": supervised_loss(logits1_l, batch.labels, options.dice),
                  "supervised_2": supervised_loss(logits2_l, strong_labels, options.dice)}
    displaced_l = {"displaced_labeled_1": supervised_loss(moved1_l, labels, options.dice),
                   "displaced_labeled_2": supervised_loss(moved2_l, labels, options.dice)}
    pseudo = {"pseudo_1": dice_loss(logits1_u, pseudo2_u),
              "pseudo_2": dice_loss(logits2_u, pseudo1_u),
              "displaced_1": dice_loss(moved1_u, likeliest(moved2_u)),
              "displaced_2": dice_loss(moved2_u, likeliest(moved1_u))}
    total = (sum(supervised.values()) + weight_l * sum(displaced_l.values())
             + weight * sum(pseudo.values()))
    return {"total": total, **supervised, **displaced_l, **pseudo,
            "pseudo_labels": torch.stack([pseudo1_u, pseudo2_u]), "displaced_images": images_u}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(run.data.dimensions == 3, f"Cross teaching is for images, and {run.data.name} has "
               "volumes: ABD on BCP takes them, python code/train_ABD.py.")
    check_grid(options.grid, options.patch_size)
    model1, model2 = run.network("model1"), run.network("model2", model=options.model2)
    kind2 = None if options.optimizer2 == "same" else options.optimizer2
    optimizers = [run.optimizer("model1", model1),
                  run.optimizer("model2", model2, kind=kind2, lr=options.base_lr2)]
    step_losses = run.compiled(losses)
    run.evaluates(by_validation=True, model1=model1, model2=model2, ensemble="mean_logits")

    scale = run.data.mean, run.data.std
    for step, batch in run.batches():
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        weight_l = options.displaced_weight if step <= options.displaced_until else 0.0
        view = cutout_view(batch.images, batch.labels, batch.rng, *scale)
        which = send(batch.rng.random(batch.n_labeled) < options.displaced_share, run.device)
        terms = step_losses(model1, model2, batch, *view, which, weight, weight_l, options)
        run.update(optimizers, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
