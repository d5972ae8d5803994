"""SemSim: weak-to-strong consistency with semantic similarity (Xie et al., arXiv 2410.13486). A RECONSTRUCTION: no public code.

Two strong views s, r of an image must agree with the weak view w: in what the decoder says (p), in what similar positions of the image
say together (q), and in what prototypes of the labelled images say (c), each where the weak view is sure:

    L = (CE + Dice)(f(x_l), y_l) / 4 + [lambda D(p^s, p^w) + lambda_intra D(q^s, q^w) + lambda_cross mean A CE(c^r, c^w)] / 2
    q = (P + P M) / 2,   M = softmax cos(g, g),   c = softmax_class ln sum_labelled exp cos(g, prototype of class and region)

with D = Dice, g = features fused from three scales, A = how far the labelled images agree.

Page: docs/methods/semsim.md          python code/train_SemSim.py --dataset ACDC --labeled_num 7
"""
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from dataloaders.augmentation.strong_views import mixed_view
from engine import Options, Presets, Run, launch
from losses import supervised_loss
from losses.overlap import one_hot
from losses.semantic import agreement, cut_mixed, local_prototypes, masked_dice, middles, queried, rectified, similarities
from networks.sfm import windows_of


@dataclass
class SemSim(Options):
    variant: Literal["default", "as_printed"] = "default"
    """default: a reconstruction that can work; as_printed: the paper's text to the letter."""
    decoder_weight: float = 0.5
    """lambda: weight of the decoder's term."""
    intra_weight: float = 0.25
    """lambda_intra: weight of the term of similar positions."""
    cross_weight: float = 0.25
    """lambda_cross: weight of the term of prototypes."""
    threshold: float = 0.95
    """Least probability at which a weak view counts as sure."""
    regions: int = 4
    """Regions an axis, each with prototypes of its own."""
    sharpness: float = 1000.0
    """r: how fast A falls as the labelled images disagree."""
    feature_dropout: float = 0.5
    """Share of channels dropped from all maps that the strong view's decoder reads; 0 for none."""
    affinity_on: Literal["probabilities", "logits"] = "probabilities"
    """What similar positions share."""
    affinity_factor: float = 0.5
    """Of P + P M: 0.5 keeps probabilities (ours), 1 does not (as printed)."""
    affinity_temperature: float = 1.0
    """Of the softmax of cosines between positions (as printed: 1)."""
    prototype_temperature: float = 1.0
    """Of the softmax of cosines to prototypes (as printed: 1)."""
    semantic_mask: Literal["decoder", "own"] = "decoder"
    """Whose probability says where q and c count: the decoder's (ours), or their own (as printed; c's never reaches 0.95)."""
    semantic_targets: Literal["hard", "soft"] = "hard"
    """What q^w and c^w teach: their class (ours), or themselves (as printed)."""
    agreement: Literal["softmax", "cosine"] = "softmax"
    """A compares the labelled images' distributions over classes (ours), or their cosines (as printed)."""


PAPER = dict(patch_size=(224, 224), batch_size=16, labeled_bs=8, schedule="poly_next")
PRESETS: Presets = {
    "ACDC": PAPER | dict(max_iterations=44100),
    "PROMISE12": PAPER | dict(max_iterations=34000),
    "ISIC": PAPER | dict(max_iterations=62100),
    "as_printed": dict(affinity_factor=1.0, semantic_mask="own", semantic_targets="soft", agreement="cosine"),
}


def losses(network, fusion, batch, views, options):
    """The method: named terms of the loss, each a scalar; `total` is what is minimised. `views`: s and r, each a `mixed_view`."""
    n, affinity = batch.n_labeled, (options.affinity_on, options.affinity_temperature, options.affinity_factor)
    parts = [network.encode(x) for x in ([batch.images] if options.passes == "joint" else [batch.labeled, batch.unlabeled])]
    logits = torch.cat([network.head(network.decode(maps)) for maps in parts])
    labeled, unlabeled = torch.cat([fusion(maps[1:4]) for maps in parts]).tensor_split([n])
    maps = network.encode(torch.cat([view[0] for view in views]))
    first, second = fusion(maps[1:4]).chunk(2)
    strong = network.head(network.decode([F.dropout2d(x.chunk(2)[0], options.feature_dropout) for x in maps]))

    prototypes, present = local_prototypes(labeled, middles(batch.labels, labeled.shape[2:]), logits.shape[1], options.regions)
    cosines = similarities(second, prototypes)
    with torch.no_grad():
        p = logits[n:].softmax(1)
        q = rectified(logits[n:], unlabeled, *affinity)
        c = queried(similarities(unlabeled, prototypes), present, options.prototype_temperature).exp()
        small = F.interpolate(p, size=q.shape[2:], mode="bilinear")
        targets, sure = [], []
        for target, deciding, view in ((p, p, views[0]), (q, small, views[0]), (c, small, views[1])):
            deciding = target if options.semantic_mask == "own" else deciding
            taught = one_hot(target.argmax(1), p.shape[1])[0] if target is p or options.semantic_targets == "hard" else target
            sure.append(cut_mixed(deciding.amax(1, keepdim=True), *view[1:]) >= options.threshold)
            targets.append(cut_mixed(taught, *view[1:]))
        weight = agreement(cosines, present, options.sharpness, options.agreement)

    supervised = supervised_loss(logits[:n], batch.labels, options.dice)
    decoder = masked_dice(strong.softmax(1), targets[0], sure[0])
    intra = masked_dice(rectified(strong, first, *affinity), targets[1], sure[1])
    cross = (sure[2] * weight * targets[2] * -queried(cosines, present, options.prototype_temperature)).sum(1).mean()
    total = (supervised + options.decoder_weight * decoder + options.intra_weight * intra + options.cross_weight * cross) / 2
    return {"total": total, "supervised": supervised, "decoder": decoder, "intra": intra, "cross": cross, "agreement": weight.mean(),
            "sure_cross": sure[2].float().mean(), "pseudo_labels": targets[0].argmax(1), "mask": sure[0]}


def main(options: SemSim) -> None:
    run, windows = Run(options), windows_of(options.patch_size)
    run.say("SemSim is a RECONSTRUCTION: there is no public code, about ten choices are ours (docs/methods/semsim.md). The fusion module "
            f"cuts {' x '.join(map(str, options.patch_size))} pixels into {windows} x {windows} windows (ours; at 224 x 224: 7 x 7).")
    run.refuse(run.data.dimensions != 2 or not options.model.startswith("unet"), "SemSim's fusion reads the maps of a 2D U-Net, not of "
               f"volumes: {run.data.name} with --model {options.model} has none; choose images and --model unet or unet_transposed.")
    run.refuse(any(side // 4 % options.regions for side in options.patch_size), f"--regions {options.regions}: a divisor is needed of "
               f"{' and '.join(str(side // 4) for side in options.patch_size)}, a quarter of the patch's sides.")
    run.refuse(not 0 <= options.feature_dropout < 1 or min(options.affinity_temperature, options.prototype_temperature) <= 0,
               "--feature_dropout from 0 to below 1 is needed, and temperatures above 0.")
    network, fusion = run.network("network"), run.network("fusion", model="sfm", windows=windows)
    optimizer = run.optimizer("network", [(network, 1.0), (fusion, 1.0)])
    step_losses = run.compiled(losses)
    run.evaluates(network=network)

    for step, batch in run.batches():
        views = [mixed_view(batch.unlabeled, batch.rng, run.data.mean, run.data.std) for _ in range(2)]
        terms = step_losses(network, fusion, batch, views, options)
        run.update(optimizer, terms)
        run.after_step(step, terms)
    run.finish()


if __name__ == "__main__":
    launch(main, SemSim, PRESETS)
