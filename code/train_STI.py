"""STI (Yang et al., Concurrency and Computation 2026), and with --pooling mean CISC-R (TPAMI 2023).

Self-training. Each unlabelled image u has a labelled partner p with a class c in common. Where u is
unlike c in p although its pseudo-label q is c, or like it although q is another, q counts less:

    L = S(f(x_l), y_l) + mean (1 - |[q = c] - s|) CE(f(s(u)), q),   s = cos(F(u), v),
    v = sum e F / sum e where p shows c,   F: features of the network that made q,   e = sum exp F

First the half of the images that agree best with mean prototypes; the network that learned from it
labels the rest and makes F for all. In the first stage s itself learns [y = c], on labelled pairs.

Page: docs/methods/sti.md      python code/train_STI.py --dataset VOC2012
"""
from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from dataloaders.augmentation.copy_paste import cut_in
from dataloaders.augmentation.pairs import Search
from dataloaders.augmentation.strong_views import recoloured_in_part
from dataloaders.splits.self_training import first_steps, lower_half, supervised_list
from engine import Count, Fill, Options, Positive, Presets, Run, Share, Within, launch
from losses import supervised_loss
from losses.class_similarity import pairs_loss, similar_to_partners, unlike_anchors, weighted_loss
from networks import logits_of
from networks.scales import AtScales


@dataclass
class Method(Options):
    pooling: Literal["soft", "mean"] = "soft"
    """Prototypes: soft, in which large features weigh more (STI), or mean, plain (CISC-R)."""
    search: Literal["class", "random"] = "class"
    """Partners: labelled images that show a class of the image, or any."""
    least: Share = 0.03
    """Share of an image that a class must cover to be searched for, 0 to 1."""
    pre_iterations: Count | None = None
    """Steps of the first stage. Without it as many epochs as the last has in --max_iterations."""
    scales: tuple[Positive, ...] = (0.5, 0.75, 1.0, 1.5, 2.0)
    """Sizes of an image, each mirrored too, over which a pseudo-label is averaged."""
    jitter: Annotated[tuple[float, float, float, float], Within(0)] = (0.5, 0.5, 0.5, 0.25)
    """Brightness, contrast, saturation and hue of 80 % of the strong views."""
    grey: Share = 0.2
    """Share of the strong views that lose their colours."""
    blur: Share = 0.5
    """Share of the strong views that are blurred, by a Gaussian of 0.1 to 2 pixels."""
    cutin: Share = 0.0
    """Share of the strong views with Cutin, which the paper names and its program never calls."""
    recipe: Literal["scale_crop_400", "scale_crop_2048"] | None = None
    """Weak views scaled to half to twice so many pixels, not to half to twice their own size."""


STRIDE_8 = "deeplabv3plus_resnet50_stride8"
PRESETS: Presets = {
    "ACDC": dict(least=0.01), "Phantom": dict(pre_iterations=150),
    "VOC2012": dict(model=STRIDE_8, recipe="scale_crop_400"),
    "Cityscapes": dict(model=STRIDE_8, max_iterations=55680, patch_size=(721, 721), base_lr=4e-3,
                       head_rate=10.0, recipe="scale_crop_2048"),
    "standin": dict(model="deeplabv3plus_resnet18"),
}


def losses(student, teacher, batch, strong_u, pseudo_u, pairs, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    logits_l, logits_u = logits_of(student, batch.labeled, strong_u, options.passes)
    with torch.no_grad():
        similar = similar_to_partners(teacher, strong_u, pairs, options.pooling)

    supervised = supervised_loss(logits_l, batch.labels, options.dice)
    unsupervised = weighted_loss(logits_u, pseudo_u, pairs.own, similar)
    return {"total": supervised + unsupervised, "supervised": supervised,
            "unsupervised": unsupervised, "similar": similar, "pseudo_labels": pseudo_u}


def first_stage(run, search, images, steps, options):
    """The network that makes the first pseudo-labels."""
    stage = run.stage("supervised", first_steps(options.pre_iterations, steps, run.say))
    student = stage.network("student")
    optimizer = stage.optimizer("student", student)
    step_losses = stage.compiled(pairs_loss)
    stage.evaluates(student=student)
    for step, batch in stage.batches(labeled=images, labeled_only=True, recipe=options.recipe,
                                     batch_size=options.labeled_bs, drop_last=True):
        pairs = search.partners(batch.cases, batch.labels, batch.rng, stage.augmented)
        terms = step_losses(student, batch.images, batch.labels, pairs, options)
        stage.update(optimizer, terms)
        stage.after_step(step, terms)
    return run.best("supervised", "student").eval()


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(run.data.dimensions == 3, "STI is for images, not volumes; train_BCP.py has these.")
    labeled, unlabeled = run.items(labeled=True), run.items(labeled=False)
    half, first = len(unlabeled) // 2, supervised_list(labeled)
    run.refuse(half == 0, "STI needs two unlabelled images; choose a smaller --labeled_num.")
    steps = [max(1, options.max_iterations * n // len(unlabeled)) for n in (len(first), half)]
    truth = {item.name: run.label(item) for item in labeled}
    search = Search(truth, run.data, options.least, options.search)
    teacher = first_stage(run, search, first, steps[0], options)
    masks = run.predict_unlabeled("supervised", AtScales(teacher, options.scales))
    errors = run.once("agreement", lambda: unlike_anchors(
        run.as_tested, teacher, labeled, masks, run.data.num_classes, options.pooling))
    search.keep_better_half(errors["labeled"])
    pseudo, rest = lower_half(masks, errors["pseudo"])

    for stage in (run.stage("agreeing", steps[1]), run):
        student = stage.network("student")
        optimizer = stage.optimizer("student", student)
        step_losses = stage.compiled(losses)
        stage.evaluates(student=student)
        for step, batch in stage.batches(unlabeled=pseudo, maps={"mask": Fill(255, 255, 255)},
                                         recipe=options.recipe):
            view_u, pseudo_u = cut_in(batch.unlabeled, batch.maps["mask"][batch.n_labeled:].long(),
                                      batch.rng, options.cutin)
            pairs = search.partners(batch.cases, pseudo_u, batch.rng, stage.augmented)
            strong_u = recoloured_in_part(view_u, batch.rng, options.jitter, options.grey,
                                          options.blur, run.data.mean, run.data.std)
            terms = step_losses(student, teacher, batch, strong_u, pseudo_u, pairs, options)
            stage.update(optimizer, terms)
            stage.after_step(step, terms)
        if stage is not run:
            teacher = run.best(stage.name, "student").eval()
            pseudo += run.predict_unlabeled(stage.name, AtScales(teacher, options.scales), rest)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
