"""ST++: self-training that learns from stable images first (Yang et al., CVPR 2022, 2106.05095).

A network learns from the labelled images. What it says of an unlabelled one, over several scales,
is its label q for a new network, which learns from both kinds, of unlabelled ones strong views s:

    L = S(f([x_l, s(x_u)]), [y_l, q]),   where s shows a box of noise q is ignored
    r(x_u) = (mIoU(m_1, m_3) + mIoU(m_2, m_3)) / 2,   m_k = argmax f(x_u) after the k-th third

The half of the images with the larger r comes first; the network that learned from it labels the
other half, and a third network learns from all. ST (--variant st) learns from all at once.

Page: docs/methods/st_plus_plus.md      python code/train_STPlusPlus.py --dataset VOC2012
"""
from dataclasses import dataclass
from typing import Annotated, Literal

from dataloaders.augmentation.strong_views import with_strong_rows
from dataloaders.splits.self_training import (
    by_score,
    first_steps,
    retraining_list,
    supervised_list,
    thirds,
)
from engine import Count, Options, Positive, Presets, Run, Share, Within, launch
from losses import supervised_loss
from losses.pseudo_labels import stability
from networks import frozen_copy
from networks.scales import AtScales


@dataclass
class Method(Options):
    variant: Literal["default", "st"] = "default"
    """st: one retraining, from all unlabelled images at once."""
    retrainings: Literal[1, 2] = 2
    """2: from the stable half of the unlabelled images, then from all; 1: from all."""
    pre_iterations: Count | None = None
    """Steps of the first stage. Without it as many epochs as the last has in --max_iterations."""
    label_with: Literal["best", "last"] = "best"
    """Which network of a stage makes pseudo-labels: its best on validation cases, or its last."""
    scales: tuple[Positive, ...] = (0.5, 0.75, 1.0, 1.5, 2.0)
    """Sizes of an image, each mirrored too, over which a pseudo-label is averaged."""
    jitter: Annotated[tuple[float, float, float, float], Within(0)] = (0.5, 0.5, 0.5, 0.25)
    """Brightness, contrast, saturation and hue of 80 % of the strong views."""
    grey: Share = 0.2
    """Share of the strong views that lose their colours."""
    blur: Share = 0.5
    """Share of the strong views that are blurred, by a Gaussian of 0.1 to 2 pixels."""
    cutout: Share = 0.5
    """Share of the strong views with a box of noise, of 2 to 40 % of the image."""
    recipe: Literal["scale_crop_400", "scale_crop_2048"] | None = None
    """Weak views scaled to half to twice so many pixels, not to half to twice their own size."""


STRIDE_8 = "deeplabv3plus_resnet50_stride8"
PRESETS: Presets = {
    "natural": dict(schedule="poly_next"),
    "VOC2012": dict(model=STRIDE_8, batch_size=16, max_iterations=105280, recipe="scale_crop_400"),
    "Cityscapes": dict(model=STRIDE_8, batch_size=16, max_iterations=83520, patch_size=(721, 721),
                       base_lr=4e-3, head_rate=10.0, recipe="scale_crop_2048"),
    "blended": dict(max_iterations=99200),
    "u2pl": dict(max_iterations=99200),
    "standin": dict(model="deeplabv3plus_resnet18", batch_size=8, max_iterations=2000),
    "Phantom": dict(pre_iterations=150),
    "st": dict(retrainings=1),
}


def losses(network, batch, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    return {"total": supervised_loss(network(batch.images), batch.labels, options.dice)}


def stable_first(run, snapshots):
    """The unlabelled images, those first of which all snapshots say most nearly the same."""
    masks = [run.predict_unlabeled(f"third{k}", network) for k, network in enumerate(snapshots)]
    scores = run.once("stability", lambda: [
        stability(map(run.label, each), run.data.num_classes) for each in zip(*masks)])
    return by_score(run.items(labeled=False), [-r for r in scores])


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(run.data.dimensions == 3, f"ST++ is for images, and {run.data.name} has volumes; "
               "train_BCP.py takes them.")
    labeled, unlabeled = run.items(labeled=True), run.items(labeled=False)
    half = len(unlabeled) // options.retrainings
    run.refuse(half == 0, "ST++ learns from unlabelled images, and there "
               f"{'is one' if unlabeled else 'are none'}: choose a smaller --labeled_num.")
    lists = [supervised_list(labeled), retraining_list(labeled, unlabeled[:half]),
             retraining_list(labeled, unlabeled)]
    steps = [max(1, options.max_iterations * len(one) // len(lists[-1])) for one in lists]
    supervised = run.stage("supervised", first_steps(options.pre_iterations, steps[0], run.say))
    stable = [run.stage("stable", steps[1])] * (options.retrainings - 1)
    pseudo: list = []

    for stage in (supervised, *stable, run):
        network = stage.network("network")
        early = thirds(stage.iterations)[:-1] if stable and stage is supervised else []
        snapshots = {step: stage.keep(f"after_{step}", frozen_copy(network), train=False)
                     for step in early}
        optimizer = stage.optimizer("network", network)
        step_losses = stage.compiled(losses)
        stage.evaluates(network=network)
        strong = {item.name for item in pseudo}
        images = retraining_list(labeled, pseudo) if pseudo else supervised_list(labeled)
        for step, batch in stage.batches(labeled=images, labeled_only=True, drop_last=True,
                                         recipe=options.recipe):
            batch = with_strong_rows(batch, strong, options.jitter, options.grey, options.blur,
                                     options.cutout, run.data)
            terms = step_losses(network, batch, options)
            stage.update(optimizer, terms)
            if step + 1 in snapshots:
                snapshots[step + 1].load_state_dict(network.state_dict())
            stage.after_step(step, terms)
        if stage is supervised and stable:
            unlabeled = stable_first(run, [*snapshots.values(), network])
        if stage is not run:
            best = run.best(stage.name, "network") if options.label_with == "best" else network
            part = unlabeled[half:] if pseudo else unlabeled[:half]
            pseudo += run.predict_unlabeled(stage.name, AtScales(best, options.scales), part)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
