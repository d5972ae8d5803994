"""ST++, CISC-R and STI: lists, schedule, reliability, losses, prototypes, search and selection; and labels over several scales."""
from __future__ import annotations

import numpy as np
import torch
import train_STI
import train_STPlusPlus
from parity_tools import Computed, Golden, Parity, Stub, golden_batch, gradient
from torch import Tensor, nn

from dataloaders.augmentation import pairs
from dataloaders.splits.self_training import by_score, retraining_list, supervised_list, thirds
from engine import parse
from engine.schedules import SCHEDULES
from losses.class_similarity import anchor_errors, anchors, pairs_loss, present, prototype, similar_to_partners, similarity
from losses.pseudo_labels import stability
from metrics import confusion_matrix
from metrics.overlap import class_iou, stpp_miou
from networks.scales import AtScales, mean_over_scales


def stpp_schedule(golden: Golden) -> Computed:
    steps = int(golden["par_batches_per_epoch"] * golden["par_epochs"])
    rates = np.array([SCHEDULES["poly_next"](k, float(golden["par_lr"]), steps) for k in range(steps)])
    after = SCHEDULES["poly_next"](steps, float(golden["par_lr"]), steps)
    out: Computed = {}
    for kind, factor in (("", 10.0), ("_deeplabv2", 1.0)):
        out |= {f"out_in_effect_backbone{kind}": rates, f"out_in_effect_head{kind}": factor * rates,
                f"out_last_set{kind}": np.array([after, factor * after])}
    out |= {f"out_snapshots_{epochs}": np.array(thirds(int(epochs))) for epochs in golden.endings("out_snapshots_")}
    classes = golden["out_val_iou"].shape[1]
    matrices = [confusion_matrix(maps, golden["in_val_labels"], classes) for maps in golden["in_val_predictions"]]
    scores = np.array([stpp_miou(matrix)[1] for matrix in matrices])
    out |= {"out_val_iou": np.stack([class_iou(matrix) for matrix in matrices]), "out_val_miou": scores,
            "out_best_epoch": np.array(scores.argmax())}
    for name, data, listed in (("pascal", "VOC2012", 92), ("cityscapes", "Cityscapes", 186)):
        options = parse(train_STPlusPlus.Method, train_STPlusPlus.PRESETS, ["--dataset", data, "--root_path", "."])
        images = {"VOC2012": 10582, "Cityscapes": 2975}[data]
        epoch = len(retraining_list(range(listed), range(images - listed))) // options.batch_size
        rows = [[b, options.base_lr / options.batch_size * b, options.max_iterations / epoch, options.patch_size[0]]
                for b in golden[f"out_defaults_{name}"][:, 0]]
        out[f"out_defaults_{name}"] = np.array(rows)
    return out


def stpp_lists(golden: Golden) -> Computed:
    counts = list(zip(golden["in_labeled"].tolist(), golden["in_unlabeled"].tolist()))
    lists = [retraining_list(range(labeled), range(labeled, labeled + unlabeled)) for labeled, unlabeled in counts]
    return {"out_semi_ids": np.array(lists[0]), "out_semi_length": np.array([len(one) for one in lists]),
            "out_supervised_length": np.array([len(supervised_list(range(labeled))) for labeled, _ in counts])}


def stpp_reliability(golden: Golden) -> Computed:
    classes, masks = int(golden["par_classes"]), [golden[f"in_masks_{k}"] for k in (1, 2, 3)]
    out: Computed = {}
    for k in (1, 2):
        found = [stpp_miou(confusion_matrix(mask, last, classes)) for mask, last in zip(masks[k - 1], masks[2])]
        out |= {f"out_iou_{k}3": np.stack([iou for iou, _ in found]), f"out_miou_{k}3": np.array([mean for _, mean in found])}
    r = [stability(each, classes) for each in zip(*masks)]
    ranked = by_score(range(len(r)), [-one for one in r])
    half = len(r) // 2
    return out | {"out_reliability": np.array(r), "out_reliable": np.array(ranked[:half]), "out_unreliable": np.array(ranked[half:])}


def stpp_loss(golden: Golden) -> Computed:
    options, losses, gradients = train_STPlusPlus.Method(dice="none"), [], []
    for k, labels in enumerate(golden.tensor("in_labels")):
        logits = golden.tensor("in_logits")[k].requires_grad_()
        losses.append(train_STPlusPlus.losses(Stub(logits), golden_batch(labels, 0), options)["total"])
        gradients.append(gradient(losses[-1], logits)[0])
    nothing = np.ma.masked_array(0.0, mask=True)  # 0 here, where the published mean over nothing is not a number
    return {"out_loss": torch.stack(losses), "grad_logits": torch.stack(gradients), "out_loss_all_ignored": nothing}


def stpp_tta(golden: Golden) -> Computed:
    sizes = ("50", "75", "100", "150", "200")
    logits = [golden.tensor(f"in_logits_{size}{end}") for size in sizes for end in ("", "_mirrored")]
    images, scales = golden.tensor("in_images"), [int(size) / 100 for size in sizes]
    network = Stub(*logits)
    mean = mean_over_scales(network, images, scales)
    seen = dict(zip([f"{size}{end}" for size in sizes for end in ("", "_mirrored")], network.seen))
    whole = Stub(*logits)
    whole.multiple = 1
    out: Computed = {f"out_input_{name}": version for name, version in seen.items()}
    return out | {"out_scores": 10 * mean, "out_scores_cisc": mean, "out_labels": AtScales(whole, scales)(images).argmax(1),
                  "out_sizes": np.array([seen[size].shape[2:] for size in sizes])}


def pooled(pooling: str, golden: Golden) -> Computed:
    out: Computed = {}
    for kind in golden.endings("in_features_"):
        features = golden.leaf(f"in_features_{kind}")
        found = prototype(features, golden.tensor("in_maps"), pooling)[..., None, None]
        out |= {f"out_prototype_{kind}": found,
                f"grad_features_{kind}": gradient((golden.tensor("in_weights") * found).sum(), features)[0]}
    return out


class Tapped(nn.Module):
    """A network that gives golden features and logits, whatever it is shown."""

    def __init__(self, features: Tensor, logits: Tensor | None = None):
        super().__init__()
        self.features, self.logits = features, logits

    def encode(self, images: Tensor) -> Tensor:
        assert len(images) == len(self.features)
        return images

    def decode(self, maps: Tensor) -> Tensor:
        return self.features

    def head(self, features: Tensor) -> Tensor:
        assert self.logits is not None
        return self.logits


def stage_1(pooling: str, golden: Golden) -> Computed:
    features, logits = ([golden.leaf(f"in_{name}_{k}") for k in (1, 2)] for name in ("features", "logits"))
    labels, masks = ([golden.tensor(f"in_{name}_{k}") for k in (1, 2)] for name in ("labels", "map"))
    images = torch.zeros(len(labels[0]), 1, *labels[0].shape[1:])
    both = pairs.Pairs(images, labels[1], masks[0], masks[1])
    terms = pairs_loss(Tapped(torch.cat(features), torch.cat(logits)), images, labels[0], both,
                       train_STI.Method(pooling=pooling, dice="none"))
    vectors = [prototype(f, m, pooling) for f, m in zip(features, masks)][::-1]
    out: Computed = {f"out_{name}": terms[name] for name in ("supervised", "consistency", "total")}
    for k, (f, v) in enumerate(zip(features, vectors), 1):
        out[f"out_similarity_{k}"] = similarity(f, v, labels[0].shape[1:], pooling)
    out |= {f"grad_total_logits_{k}": g for k, g in enumerate(gradient(terms["total"], *logits), 1)}
    return out | {f"grad_consistency_features_{k}": g for k, g in enumerate(gradient(terms["consistency"], *features), 1)}


def stage_4(pooling: str, golden: Golden) -> Computed:
    labels, pseudo = golden.tensor("in_labels"), golden.tensor("in_pseudo_labels")
    logits_l, logits_u = golden.leaf("in_logits_labeled"), golden.leaf("in_logits_unlabeled")
    n, images = len(pseudo), torch.ones(len(pseudo), 1, *pseudo.shape[1:])
    found = pairs.Pairs(images, golden.tensor("in_labels_partner"), golden.tensor("in_map_unlabeled"), golden.tensor("in_map_partner"))
    teacher, batch = Tapped(golden.tensor("in_features_teacher")), golden_batch(labels, n)
    terms = train_STI.losses(Stub(torch.cat([logits_l, logits_u])), teacher, batch, images, pseudo, found,
                             train_STI.Method(pooling=pooling, dice="none"))
    gradients = gradient(terms["total"], logits_u, logits_l)
    return {"out_similarity": similar_to_partners(teacher, images, found, pooling), "grad_total_unlabeled": gradients[0],
            "grad_total_labeled": gradients[1], **{f"out_{name}": terms[name] for name in ("supervised", "unsupervised", "total")}}


def sti_class_lists(golden: Golden) -> Computed:
    labels, places = golden["in_labels"], [*range(21), 255]
    lists, pascal, cityscapes = (np.stack([pairs.shown(label, classes, 0.03, first) for label in labels], 1)
                                 for classes, first in ((256, 0), (21, 1), (21, 0)))
    pool = np.stack([pairs.pool(classes, lists[:21]) for classes in pascal.T])
    others = [golden.tensor(f"in_pair_labels_{k}") for k in (1, 2)]
    shared = [np.stack([pairs.shown(label, 21, 0.03, 1) for label in labels]) for labels in (golden["in_pair_labels_1"],
                                                                                            golden["in_pair_labels_2"])]
    maps = pairs.masks(*others, shared[0] & shared[1], golden["in_class_order"])
    none = np.zeros((1, len(labels)), bool)
    return {"out_lists": lists[places], "out_classes_pascal": np.concatenate([pascal, none]),
            "out_classes_cityscapes": np.concatenate([cityscapes, none]), "out_pool_counts": pool,
            "out_pair_map_1": maps[0], "out_pair_map_2": maps[1]}


def sti_selection(golden: Golden) -> Computed:
    classes = int(golden["par_classes"])

    def one_by_one(features: str, labels: str) -> list[tuple[Tensor, Tensor]]:
        return list(zip(golden.tensor(features).split(1), golden.tensor(labels).split(1)))

    vectors = anchors(one_by_one("in_features_anchor", "in_labels_anchor"), classes, "soft")
    errors = np.stack([anchor_errors(*one, vectors).numpy() for one in one_by_one("in_features_labeled", "in_labels_labeled")], 1)
    lists = golden["in_lists"].astype(bool)
    kept = pairs.better_half(lists, errors)
    kept[lists.sum(1) == 1] = False  # of a list of one image ours keeps it; the published half is none, on which its next step fails
    sums = [float((anchor_errors(*one, vectors) * present(one[1], classes)).sum())
            for one in one_by_one("in_features_unlabeled", "in_pseudo_labels")]
    ranked, half = by_score(range(len(sums)), sums), len(sums) // 2
    return {"out_anchors": vectors, "out_labeled_score": np.where(lists, errors, np.nan), "out_lists": kept,
            "out_unlabeled_score": np.array(sums), "out_reliable": np.array(ranked[:half]), "out_unreliable": np.array(ranked[half:])}


PROTOTYPES = {"out_prototype_*": (2e-5, 1e-6), "grad_*": 2e-5}
LOOSE = {"out_similarity*": (1e-5, 1e-6), "grad_consistency_features_*": 1e-4}
FILES = {
    "stpp_schedule": Parity(stpp_schedule),
    "stpp_lists": Parity(stpp_lists),
    "stpp_reliability": Parity(stpp_reliability),
    "stpp_loss": Parity(stpp_loss),
    "stpp_tta": Parity(stpp_tta, tolerances={"out_input_*": (1e-5, 1e-6), "out_scores_cisc": (1e-5, 1e-6), "out_scores": (1e-5, 1e-5)}),
    "cisc_prototype": Parity(lambda golden: pooled("mean", golden), tolerances=PROTOTYPES),
    "sti_prototype": Parity(lambda golden: pooled("soft", golden), tolerances=PROTOTYPES),
    "cisc_stage1": Parity(lambda golden: stage_1("mean", golden), tolerances=LOOSE),
    "sti_stage1": Parity(lambda golden: stage_1("soft", golden), tolerances=LOOSE),
    "cisc_stage4": Parity(lambda golden: stage_4("mean", golden), tolerances=LOOSE),
    "sti_stage4": Parity(lambda golden: stage_4("soft", golden), tolerances=LOOSE),
    "sti_class_lists": Parity(sti_class_lists),
    "sti_selection": Parity(sti_selection, tolerances={"out_anchors": (2e-5, 1e-6), "out_*_score": (1e-5, 1e-6)}),
}
