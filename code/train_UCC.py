"""UCC: uncertainty-guided cross-head co-training (Fan et al., CVPR 2022, arXiv 2205.10334), as
simEps's authors have it.

One encoder, two decoders; the second reads noisy maps. What one predicts for a weak view is the
label of the other's prediction for a strong view of the same image. It counts the less the more
the two predictions diverge, and they shall not:

    L = S(f_1(x_l), y_l) + S(f_2(x_l), y_l) + w(t) * [P_1 + P_2],   S = (CE + Dice) / 2
    P_k = S(f_k(s), argmax f_j(x_u)) * mean e^-V_k + mean V_k,   j the other head
    V_1 = KL(f_2(s) || f_1(x_u)),   V_2 = KL(f_2(x_u) || f_1(s))

CutMix: boxes of the next labelled image in labelled ones, of labelled images in both views.

Page: docs/methods/ucc.md      python code/train_UCC.py --dataset NEU-Seg
"""
from dataclasses import dataclass
from typing import Annotated, Literal

import torch

from dataloaders.augmentation.copy_paste import half_boxes
from dataloaders.augmentation.strong_views import grainy, recoloured
from engine import NotNegative, Options, Presets, Run, Share, Within, launch
from losses import batch_mean, softmax_kl, supervised_loss
from losses.pseudo_labels import damped_loss
from networks import logits_of


@dataclass
class Method(Options):
    consistency: NotNegative = 0.1
    """Weight of the unsupervised terms once ramped up, 0 or more."""
    consistency_rampup: NotNegative = 200.0
    """Length of its ramp in units of 150 steps; 0: the weight is constant."""
    damping: Literal["mean", "pixel"] = "mean"
    """What e^-V multiplies: the loss, by its mean (published code), or each pixel's cross-entropy
    (the idea)."""
    feature_noise: NotNegative = 0.3
    """Second decoder: largest relative change of a feature, 0 or more."""
    own_mix: Share = 0.2
    """Share of the labelled images with a box of the next one."""
    cross_mix: Share = 0.3
    """Share of the unlabelled images with a box of a labelled one, the same in both views."""
    jitter: Annotated[tuple[float, float, float, float], Within(0)] = (0.2, 0.2, 0.2, 0.2)
    """Brightness, contrast, saturation and hue of 30 % of the strong views."""
    blur: Share = 0.3
    """Share of the strong views that are blurred."""
    specks: Share = 0.2
    """Share of the strong views with 1 % of their pixels black."""
    noise: Share = 0.4
    """Share of the strong views with noise of 3 to 7 grey levels."""


PRESETS: Presets = {"2D": dict(model="unet_ucc")}


def cut_mixed(batch, strong_u, own, cross):
    """(labelled images, their labels, weak views, strong views) with the boxes. Boxes of a labelled
    image show it as it is mixed itself; as many unlabelled images are used as there are labelled
    ones."""
    n = min(batch.n_labeled, len(strong_u))
    images = torch.where(own, batch.labeled.roll(-1, 0), batch.labeled)
    labels = torch.where(own[:, 0], batch.labels.roll(-1, 0), batch.labels)
    views = (torch.where(cross[:n], images[:n], x[:n]) for x in (batch.unlabeled, strong_u))
    return images, labels, *views


def losses(network, batch, strong_u, own, cross, weight, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    images, labels, weak, strong = cut_mixed(batch, strong_u, own, cross)
    logits_l, logits_u = logits_of(network, images, weak, options.passes)
    logits_s = network(strong)
    pseudo_u = [logits.detach().argmax(1) for logits in logits_u]
    v_1 = softmax_kl(logits_u[0], logits_s[1]).sum(1)
    v_2 = softmax_kl(logits_s[0], logits_u[1]).sum(1)

    supervised = sum(supervised_loss(logits, labels, options.dice) for logits in logits_l)
    learned = zip(logits_s, reversed(pseudo_u), (v_1, v_2))
    p_1, p_2 = (damped_loss(z, q, v, options.dice, options.damping) + batch_mean(v.mean())
                for z, q, v in learned)
    total = supervised + weight * (p_1 + p_2)
    return {"total": total, "supervised": supervised, "pseudo_1": p_1, "pseudo_2": p_2,
            "divergence_1": v_1.mean(), "divergence_2": v_2.mean(), "pseudo_labels": pseudo_u[1],
            "strong_views": strong[:, 0]}


def main(options: Method) -> None:
    run = Run(options)
    run.refuse(run.data.dimensions == 3, f"UCC has no network for volumes, and {run.data.name} has "
               "volumes; train_CPS.py asks two networks to label for each other, and takes them.")
    run.refuse(options.model != "unet_ucc", f"--model {options.model}: UCC has two decoders, which "
               "unet_ucc alone has.")
    network = run.network("network", several_heads=True, noise=options.feature_noise)
    optimizer = run.optimizer("network", network)
    step_losses = run.compiled(losses)
    run.evaluates(network=network)

    for step, batch in run.batches():
        where = (batch.n_labeled, batch.images.shape[2:])
        own, cross = (half_boxes(batch.rng, *where, share, batch.images.device)
                      for share in (options.own_mix, options.cross_mix))
        mean, std = run.data.mean, run.data.std
        strong_u = recoloured(batch.unlabeled, batch.rng, options.jitter, options.blur, 0.0, mean,
                              std, share=0.3)
        strong_u = grainy(strong_u, batch.rng, options.specks, options.noise, mean, std)
        weight = options.consistency * run.ramp(step, options.consistency_rampup)
        terms = step_losses(network, batch, strong_u, own, cross, weight, options)
        run.update(optimizer, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
