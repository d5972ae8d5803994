"""UniMatch (Yang et al., CVPR 2023, arXiv 2208.09910).

What the network f is sure of in a weak view of an unlabelled image is the label of two strong
views s_1, s_2 of it, and of the weak view with half of its feature channels dropped (f_d). In a
box a strong view shows another image, and has its label, which f finds as it does in a test:

    L = (S(f(x_l), y_l) + [U(f(s_1), q_1) + U(f(s_2), q_2)] / 4 + U(f_d(x_u), q) / 2) / 2
    U: Dice, or cross-entropy, where max p >= tau;   q = argmax p,   p = softmax f(x_u)

Page: docs/methods/unimatch.md      python code/train_UniMatch.py --dataset ACDC
"""
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch

from dataloaders.augmentation.strong_views import others_of, pasted_view
from engine import Count, Fill, NotNegative, Options, Presets, Run, Share, Steps, Within, launch
from losses import labels_loss
from losses.pseudo_labels import sure_cross_entropy, sure_dice
from networks import logits_of, logits_with_dropped_channels


@dataclass
class Method(Options):
    variant: Literal["default", "cutmix_fixmatch"] = "default"
    """cutmix_fixmatch: one strong view, nothing else; the authors' baseline."""
    confidence: Share = 0.95
    """tau, 0 to 1."""
    views: Count = 2
    """Strong views of an image."""
    strong_weight: NotNegative = 0.5
    """Weight of the strong views together."""
    feature_weight: NotNegative = 0.5
    """Weight of the prediction from dropped channels."""
    feature_dropout: Annotated[float, Within(0, 1, open_high=True)] = 0.5
    """Share of the channels of each map that are dropped."""
    min_kept: Steps = 0
    """0: labelled images teach by S; else by the cross-entropy of hard pixels, so many at least of
    a batch (published: 200,000 of two images)."""
    unsupervised: Literal["dice", "ce"] = "dice"
    """What unlabelled images teach; ce: the mean over all pixels, sure or not."""
    mix: Literal["shuffled", "other", "same"] = "shuffled"
    """What boxes show: another image of the batch, one of a second draw (published for ACDC), or
    the same image in another weak view (published for scenes)."""
    jitter: Annotated[tuple[float, float, float, float], Within(0)] = (0.5, 0.5, 0.5, 0.25)
    """Brightness, contrast, saturation and hue of 80 % of the strong views."""
    grey: Share = 0.0
    """Share of the strong views that lose their colours."""
    blur: Share = 0.5
    """Share of the strong views that are blurred, by a Gaussian of 0.1 to 2 pixels."""


PRESETS: Presets = {
    "natural": dict(unsupervised="ce", mix="same", grey=0.2),
    "ACDC": dict(mix="other", max_iterations=29400),
    "Cityscapes": dict(confidence=0.0, min_kept=800000),
    "cutmix_fixmatch": dict(views=1, strong_weight=1.0, feature_weight=0.0, feature_dropout=0.0),
}
AGREEMENT = {"dice": sure_dice, "ce": sure_cross_entropy}


@torch.no_grad()
def as_tested(network, images):
    """The network's logits; `main` has switched it to evaluation."""
    return network(images)


def losses(network, batch, views, logits_m, inside_m, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    f = partial(logits_with_dropped_channels, network, share=options.feature_dropout)
    (logits_l, _), (logits_u, logits_d) = logits_of(f, batch.labeled, batch.unlabeled,
                                                    options.passes)
    logits_s = network(torch.cat([view for view, _ in views])).chunk(len(views))
    inside_u, logits_w = batch.maps["inside"][batch.n_labeled:], logits_u.detach()
    targets = [torch.where(box, logits_m, logits_w) for _, box in views]
    counted = [torch.where(box[:, 0], inside_m, inside_u) for _, box in views]
    agreement = partial(AGREEMENT[options.unsupervised], confidence=options.confidence)

    supervised = labels_loss(logits_l, batch.labels, options.dice, options.min_kept)
    each = [agreement(*these) for these in zip(logits_s, targets, counted)]
    strong, features = sum(each) / len(each), agreement(logits_d, logits_w, inside_u)
    total = (supervised + options.strong_weight * strong + options.feature_weight * features) / 2
    sure, pseudo_u = targets[0].softmax(1).max(1)
    return {"total": total, "supervised": supervised, "strong": strong, "features": features,
            "pseudo_labels": pseudo_u, "mask": sure >= options.confidence, "s_1": views[0][0][:, 0]}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(run.data.dimensions == 3, f"UniMatch is for images, and {run.data.name} has "
               "volumes; train_MeanTeacher.py takes them.")
    network = run.network("network")
    optimizer = run.optimizer("network", network)
    step_losses, step_as_tested = run.compiled(losses), run.compiled(as_tested)
    run.evaluates(network=network)

    views, draws = 1 + (options.mix == "same"), 1 + (options.mix == "other")
    for step, batch in run.batches(maps={"inside": Fill(1, 0, 0)}, views=views, draws=draws):
        others, inside_m = others_of(batch, options.mix)
        strong = [pasted_view(batch.unlabeled, others, batch.rng, options.jitter, options.grey,
                              options.blur, run.data) for _ in range(options.views)]
        network.eval()
        logits_m = step_as_tested(network, others)
        network.train()
        terms = step_losses(network, batch, strong, logits_m, inside_m, options)
        run.update(optimizer, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
