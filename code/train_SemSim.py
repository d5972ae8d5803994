"""SemSim: semantic similarity (Xie et al., arXiv 2410.13486). A RECONSTRUCTION: no public code.

Two strong views s, r must agree with the weak view w where that is sure: in what the decoder says
(p), similar positions of the image say together (q), and prototypes of labelled images say (c):

    L = [S(f(x_l), y_l) + Dice(p^s, p^w) / 2 + Dice(q^s, q^w) / 4 + mean A CE(c^r, c^w) / 4] / 2
    q = (P + P M) / 2,   M = softmax cos(g, g),   g fused from three scales,   S = (CE + Dice) / 2
    c = softmax_class ln sum_labelled exp cos(g, prototype of class and region),   A: they agree

Page: docs/methods/semsim.md      python code/train_SemSim.py --dataset ACDC
Score: Dice 0.851 on Phantom: python code/compare.py --methods SemSim --seeds 1
"""
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch

from dataloaders.augmentation.strong_views import mixed_view
from engine import Count, NotNegative, Options, Positive, Presets, Run, Share, Within, launch
from losses import masked_dice, supervised_loss
from losses.semantic import agreement, local_prototypes, queried, rectified, similarities, taught
from networks import logits_of
from networks.perturbations import without_channels
from networks.sfm import logits_and_fused, windows_of


@dataclass
class Method(Options):
    variant: Literal["default", "as_printed"] = "default"
    """default: a reconstruction that can work; as_printed: the paper's text to the letter."""
    decoder_weight: NotNegative = 0.5
    """Weight of the decoder's term, p."""
    intra_weight: NotNegative = 0.25
    """Weight of the term of similar positions, q."""
    cross_weight: NotNegative = 0.25
    """Weight of the term of prototypes, c."""
    threshold: Share = 0.95
    """Least probability at which a weak view counts as sure."""
    regions: Count = 4
    """Regions an axis, each with prototypes of its own."""
    sharpness: NotNegative = 1000.0
    """r: how fast A falls as the labelled images disagree."""
    feature_dropout: Annotated[float, Within(0, 1, open_high=True)] = 0.5
    """Share of channels dropped from all maps that the strong view's decoder reads; 0 for none."""
    affinity_on: Literal["probabilities", "logits"] = "probabilities"
    """What similar positions share."""
    affinity_factor: NotNegative = 0.5
    """Of P + P M: 0.5 keeps probabilities (ours), 1 does not (as printed)."""
    affinity_temperature: Positive = 1.0
    """Of the softmax of cosines between positions (as printed: 1)."""
    prototype_temperature: Positive = 1.0
    """Of the softmax of cosines to prototypes (as printed: 1)."""
    semantic_mask: Literal["decoder", "own"] = "decoder"
    """Whose probability says where q and c count: the decoder's (ours), or theirs (as printed)."""
    semantic_targets: Literal["hard", "soft"] = "hard"
    """What q^w and c^w teach: their class (ours), or themselves (as printed)."""
    agreement: Literal["softmax", "cosine"] = "softmax"
    """A compares labelled images' distributions over classes (ours), or cosines (as printed)."""


PAPER = dict(patch_size=(224, 224), batch_size=16, labeled_bs=8, schedule="poly_next")
PRESETS: Presets = {
    "ACDC": PAPER | dict(max_iterations=44100),
    "PROMISE12": PAPER | dict(max_iterations=34000),
    "ISIC": PAPER | dict(max_iterations=62100),
    "as_printed": dict(affinity_factor=1.0, semantic_mask="own", semantic_targets="soft",
                       agreement="cosine"),
}


def losses(network, fusion, batch, views, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised."""
    affinity = options.affinity_on, options.affinity_temperature, options.affinity_factor
    temperature, threshold = options.prototype_temperature, options.threshold
    f = partial(logits_and_fused, network, fusion)
    (logits_l, g_l), (logits_u, g_u) = logits_of(f, batch.labeled, batch.unlabeled, options.passes)
    maps = network.encode(torch.cat([views[0][0], views[1][0]]))
    g_s, g_r = fusion(maps[1:4]).chunk(2)
    maps_s = without_channels([x.chunk(2)[0] for x in maps], options.feature_dropout)
    logits_s = network.head(network.decode(maps_s))

    prototypes, present = local_prototypes(g_l, batch.labels, logits_l.shape[1], options.regions)
    cosines = similarities(g_r, prototypes)
    with torch.no_grad():
        p_u, q_u = logits_u.softmax(1), rectified(logits_u, g_u, *affinity)
        c_u = queried(similarities(g_u, prototypes), present, temperature).exp()
        by_q, by_c = (q_u, c_u) if options.semantic_mask == "own" else (p_u, p_u)
        target_p, sure_p = taught(p_u, p_u, views[0], threshold, "hard")
        target_q, sure_q = taught(q_u, by_q, views[0], threshold, options.semantic_targets)
        target_c, sure_c = taught(c_u, by_c, views[1], threshold, options.semantic_targets)
        agreed = agreement(cosines, present, options.sharpness, options.agreement)

    supervised = supervised_loss(logits_l, batch.labels, options.dice)
    decoder = masked_dice(logits_s.softmax(1), target_p, sure_p)
    intra = masked_dice(rectified(logits_s, g_s, *affinity), target_q, sure_q)
    cross = (sure_c * agreed * target_c * -queried(cosines, present, temperature)).sum(1).mean()
    total = (supervised + options.decoder_weight * decoder + options.intra_weight * intra
             + options.cross_weight * cross) / 2
    return {"total": total, "supervised": supervised, "decoder": decoder, "intra": intra,
            "cross": cross, "agreement": agreed.mean(), "sure_cross": sure_c.float().mean(),
            "pseudo_labels": target_p.argmax(1), "mask": sure_p}


def main(options: Method) -> None:
    run, windows = Run(options), windows_of(options.patch_size)
    run.say("SemSim is a RECONSTRUCTION: there is no public code, about ten choices are ours "
            f"(docs/methods/semsim.md). The fusion module has {windows} x {windows} windows.")
    of_unet = options.model.startswith("unet") and not options.model.endswith("lite0")
    run.refuse(run.data.dimensions != 2 or not of_unet, "SemSim reads "
               f"the maps of a 2D U-Net, not of {options.model} on {run.data.name}, and takes no "
               "volumes: choose images and --model unet or unet_transposed.")
    height, width = (side // 4 for side in options.patch_size)
    run.refuse(height % options.regions or width % options.regions, f"--regions {options.regions}: "
               f"a divisor is needed of {height} and {width}, a quarter of the patch's sides.")
    network, fusion = run.network("network"), run.network("fusion", model="sfm", windows=windows)
    optimizer = run.optimizer("network", [(network, 1.0), (fusion, 1.0)])
    step_losses = run.compiled(losses)
    run.evaluates(network=network)

    for step, batch in run.batches():
        views = [mixed_view(batch.unlabeled, batch.rng, run.data.mean, run.data.std) for _ in "sr"]
        terms = step_losses(network, fusion, batch, views, options)
        run.update(optimizer, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, Method, PRESETS)
