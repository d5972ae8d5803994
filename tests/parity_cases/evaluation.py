"""Metrics, what published evaluations report, and the inference of a volume slice by slice."""
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from parity_tools import Computed, Golden, Parity

import val_2D
from dataloaders.catalog import DATA_SETS
from inference import inference_of
from metrics import binary_metrics, confusion_matrix, dice, jaccard, simeps_metrics
from metrics.overlap import abs_ravd, intersection_union_target, stpp_miou, unimatch_miou

DISTANCES = ("hd95", "hd", "asd", "assd")


def binary(golden: Golden) -> Computed:
    pairs = list(zip(golden["in_prediction"], golden["in_reference"]))
    both_empty = [not p.any() and not r.any() for p, r in pairs]  # the library's Dice of this row depends on its version
    values = np.full((len(DISTANCES), len(pairs), len(golden["in_spacing"])), np.nan)
    raises = np.zeros(values.shape[1:], bool)
    for i, (prediction, reference) in enumerate(pairs):
        for j, spacing in enumerate(golden["in_spacing"]):
            try:
                found = binary_metrics(prediction, reference, spacing)
                values[:, i, j] = [getattr(found, key) for key in DISTANCES]
            except ValueError:
                raises[i, j] = True
    assert (raises == raises[:, :1]).all()
    return {
        "out_dice": np.ma.array([dice(p, r) for p, r in pairs], mask=both_empty),
        "out_jaccard": [jaccard(p, r) for p, r in pairs],
        "out_abs_ravd": [abs_ravd(p, r) for p, r in pairs],
        "out_raises": raises[:, 0],
        **{f"out_{key}": value for key, value in zip(DISTANCES, values)},
    }


def conventions(golden: Golden) -> Computed:
    out: Computed = {}
    for name in golden.endings("out_raises_"):
        values, raises = [], []
        for prediction, reference in zip(golden["in_prediction"], golden["in_reference"]):
            try:
                values.append(val_2D.calculate_metric_percase(prediction, reference, name))
                raises.append(False)
            except ValueError:
                values.append((np.nan,) * golden[f"out_nan_{name}"].shape[1])
                raises.append(True)
        out |= {f"out_nan_{name}": values, f"out_raises_{name}": raises}
    return out


def miou(golden: Golden) -> Computed:
    classes, ignored = golden["par_classes"].item(), golden["par_ignore"].item()
    matrices = [confusion_matrix(p, r, classes, ignored) for p, r in zip(golden["in_prediction"], golden["in_reference"])]
    per_image = np.stack([intersection_union_target(matrix) for matrix in matrices])
    whole = np.sum(matrices, 0)
    percent, mean = unimatch_miou(*per_image.sum(0)[:2])
    iou, present_mean = stpp_miou(whole)
    return {
        "out_intersection_union_target_per_image": per_image, "out_iou_class_percent": percent, "out_miou_percent": mean,
        "out_stpp_hist": whole, "out_nan_stpp_iou": iou, "out_stpp_miou": present_mean,
    }


def defects(golden: Golden) -> Computed:
    out: Computed = {}
    for kind in golden.endings("in_pred_"):
        given = f"par_classes_{kind}"
        classes = golden[given].item() if given in golden.arrays else 4  # the empty images come without a number of classes
        found = simeps_metrics(golden[f"in_pred_{kind}"], golden[f"in_labels_{kind}"], classes)
        names = [f"out_miou_{kind}", f"out_mdice_{kind}", f"out_accuracy_{kind}"]
        if f"out_nan_miou_{kind}" in golden.arrays:
            assert np.isnan(found[1])
            out |= {f"out_nan_miou_{kind}": found[0], names[2]: found[2]}
        else:
            out |= dict(zip(names, found))
    return out


def volume(golden: Golden) -> Computed:
    weight, patch = golden.tensor("par_weight"), golden["par_patch_size"].tolist()
    inference = inference_of(DATA_SETS["ACDC"], patch, None, torch.device("cpu"))
    out: Computed = {"out_resized_0": inference.inputs(golden["in_images"][None])[0, 0]}
    for ending in golden.endings("par_bias"):
        bias = golden.tensor(f"par_bias{ending}")

        def net(images: torch.Tensor, bias: torch.Tensor = bias) -> torch.Tensor:
            return F.conv2d(images, weight, bias, padding=2)

        out[f"out_dice_hd95{ending}"] = val_2D.test_single_volume(golden["in_images"], golden["in_labels"], net, len(bias), patch)
        if not ending:
            out["out_prediction"] = val_2D.predict_case(golden["in_images"], net, len(bias), patch)
    return out


EXACT_DISTANCES = {f"out_{key}": (1e-9, 1e-9) for key in DISTANCES}

FILES = {
    "metrics_binary_2d": Parity(binary, tolerances=EXACT_DISTANCES),
    "metrics_binary_3d": Parity(binary, tolerances=EXACT_DISTANCES),
    "metrics_conventions": Parity(conventions),
    "miou": Parity(miou),
    "simeps_metrics": Parity(defects),
    "val_2d_volume": Parity(volume, tolerances={"out_resized_0": (0.0, 0.0)}),
}
