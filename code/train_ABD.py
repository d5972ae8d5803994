"""ABD: adaptive bidirectional displacement (Chi et al., CVPR 2024), on BCP.

After the first stage of BCP two networks learn as in its second one (B_k), f_1 from weak views and
f_2 from strong ones, with one box and one teacher, the average of f_1; and from each other, by the
Dice loss D, on the mixtures x_1, x_2 and on displaced ones d, in which the patch a network is least
sure of has been replaced by one that the other is sure of and that looks most alike to it:

    L = B_1 + B_2 + sum_k [D(f_k(x_k), argmax f_j(x_j)) + D(f_k(d), argmax f_j(d))],   j = 3 - k

Page: docs/methods/abd.md      python code/train_ABD.py --dataset ACDC
"""
from dataclasses import dataclass
from typing import Literal

import torch

from dataloaders.augmentation.copy_paste import paste_box
from dataloaders.augmentation.displacement import check_grid, displaced, sure_into_unsure
from dataloaders.augmentation.strong_views import cutout_view, send
from engine import Count, NotNegative, Options, Presets, Run, Share, Steps, launch
from losses import dice_loss
from losses.mixtures import halves, labeled_mixture_loss, mixture_loss
from losses.pseudo_labels import likeliest
from networks import average_weights, frozen_copy, logits_of


@dataclass
class Method(Options):
    variant: Literal["default", "published_code"] = "default"
    """published_code: --plain 0.5 --part_dice unmasked, of which the paper does not speak."""
    pre_iterations: Steps = 10000
    """Steps of the first stage, on labelled images alone; --max_iterations is the second's."""
    grid: tuple[int, ...] = (4, 4)
    """Patches along each axis, of which the sides of the images are multiples."""
    candidates: Count = 4
    """Of so many of its surest patches a network chooses one."""
    plain: Share = 0.0
    """Share of the images in which it gives its surest patch without choosing, 0 to 1."""
    u_weight: NotNegative = 0.5
    """Weight of the parts of a mixture that have pseudo-labels, 0 or more."""
    largest_component: bool = True
    """Keep of each class of a pseudo-label the largest connected component alone."""
    part_dice: Literal["batch", "unmasked", "sample"] = "batch"
    """Dice of a part, as BCP has it."""
    ema_decay: Share = 0.99
    """Share of the old teacher in the moving average, 0 to 1; without a warm-up."""


PRESETS: Presets = {
    "2D": dict(schedule="constant", passes="apart"),
    "3D": dict(passes="apart", part_dice="sample", grid=(4, 4, 4), batch_size=8, labeled_bs=4),
    "defect": dict(schedule="plateau", largest_component=False),
    "folder": dict(largest_component=False),
    "LA": dict(pre_iterations=2000, max_iterations=15000, val_every=200),
    "Phantom": dict(pre_iterations=100),
    "published_code": dict(plain=0.5, part_dice="unmasked"),
}


def pasted(model, teacher, images, labels, box, options):
    """BCP of one network in one view: mixtures, its logits of them, pseudo-labels, the loss."""
    n, w = len(labels), options.u_weight
    (a, b), (u, v), (y_a, y_b) = map(halves, (images[:n], images[n:], labels))
    with torch.no_grad():
        said = logits_of(teacher, u, v, options.passes)
    q_u, q_v = (likeliest(z, options.largest_component) for z in said)
    mixed = torch.where(box, a, u), torch.where(box, v, b)
    z_1, z_2 = logits_of(model, *mixed, options.passes)
    loss = (mixture_loss(z_1, q_u, y_a, box, (w, 1), options.part_dice)
            + mixture_loss(z_2, y_b, q_v, box, (1, w), options.part_dice))
    return torch.cat(mixed), torch.cat([z_1, z_2]), torch.cat([q_u, q_v]), loss


def losses(model1, model2, teacher, batch, strong, strong_labels, box, plain, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    x_1, z_1, said_1, bcp_1 = pasted(model1, teacher, batch.images, batch.labels, box, options)
    x_2, z_2, said_2, bcp_2 = pasted(model2, teacher, strong, strong_labels, box, options)
    moves = sure_into_unsure(z_1, z_2, options.grid, options.candidates, plain[: len(x_1)])
    moved = displaced(x_1, x_2, moves, options.grid)
    moved_1, moved_2 = model1(moved), model2(moved)
    terms = {"bcp_1": bcp_1, "bcp_2": bcp_2,
             "pseudo_1": dice_loss(z_1, likeliest(z_2)), "pseudo_2": dice_loss(z_2, likeliest(z_1)),
             "displaced_1": dice_loss(moved_1, likeliest(moved_2)),
             "displaced_2": dice_loss(moved_2, likeliest(moved_1))}
    return {"total": sum(terms.values()), **terms, "pseudo_labels": torch.cat([said_1, said_2]),
            "displaced_images": moved}


def pretrained(run, options):
    """The weights of the first stage, at its best."""
    stage = run.stage("pretrain", iterations=options.pre_iterations)
    model = stage.network("model")
    optimizer = stage.optimizer("model", model, schedule="constant")
    step_losses = stage.compiled(labeled_mixture_loss)
    stage.evaluates(model=model)
    for step, batch in stage.batches(labeled_only=True, batch_size=options.labeled_bs):
        box = paste_box(batch.shared_rng, options.patch_size, device=run.device)
        terms = step_losses(model, batch.images, batch.labels, box, options.part_dice)
        stage.update(optimizer, terms)
        stage.after_step(step, terms)
    return run.best("pretrain", "model").state_dict()


def main(options: Method) -> None:
    run = Run(options)
    check_grid(options.grid, options.patch_size)
    run.refuse(options.batch_size != 2 * options.labeled_bs,
               "ABD pastes images into one another: --batch_size must be twice --labeled_bs.")
    model1, model2, start = run.network("model1"), run.network("model2"), pretrained(run, options)
    model1.load_state_dict(start)
    model2.load_state_dict(start)
    teacher = run.keep("teacher", frozen_copy(model1), train=True)
    optimizers = [run.optimizer("model1", model1), run.optimizer("model2", model2)]
    step_losses = run.compiled(losses)
    run.evaluates(by_validation=True, model1=model1, model2=model2, ensemble="mean_logits")

    scale = run.data.mean, run.data.std
    for step, batch in run.batches():
        box = paste_box(batch.shared_rng, options.patch_size, device=run.device)
        strong, labels = cutout_view(batch.images, batch.labels, batch.rng, *scale)
        plain = send(batch.rng.random(len(strong)) < options.plain, run.device)
        terms = step_losses(model1, model2, teacher, batch, strong, labels, box, plain, options)
        run.update(optimizers, terms)
        average_weights(teacher, model1, options.ema_decay, buffers=True)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
