"""Golden files of inference: sliding windows over volumes and photographs, largest components."""
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from parity_tools import Computed, Golden, Parity
from torch import Tensor

import val_3D
from inference.windows import cut_windows, sliding_window
from metrics.components import largest_component


def network(golden: Golden, classes: int):
    """The file's network: a convolution, plus its own coarse average, then a 1x1x1 convolution."""
    a_weight, a_bias = golden.tensor(f"par_net{classes}_a_weight"), golden.tensor(f"par_net{classes}_a_bias")
    b_weight, b_bias = golden.tensor(f"par_net{classes}_b_weight"), golden.tensor(f"par_net{classes}_b_bias")

    def predictor(images: Tensor) -> Tensor:
        maps = F.conv3d(images, a_weight, a_bias, padding=1).tanh()
        return F.conv3d(maps + F.interpolate(F.avg_pool3d(maps, 2), scale_factor=2), b_weight, b_bias)

    return predictor


def sliding(golden: Golden) -> Computed:
    patch, xy, z = golden["par_patch"].tolist(), golden["par_stride_xy"].item(), golden["par_stride_z"].item()
    out: Computed = {}
    for ending in golden.endings("out_labels_"):
        name, classes = ending.rsplit("_c", 1)
        volume, net = golden[f"in_volume_{name}"], network(golden, int(classes))
        labels, out[f"out_scores_{ending}"] = val_3D.test_single_case(net, volume, xy, z, patch, int(classes))
        assert (labels == sliding_window(net, torch.from_numpy(volume)[None], int(classes), patch, (xy, xy, z)).numpy()).all()
        out[f"out_labels_{ending}"] = labels
    return out


def sliding_over_photographs(golden: Golden) -> Computed:
    weight, bias, image = golden.tensor("par_weight"), golden.tensor("par_bias"), golden.tensor("in_image")[0]
    grid = golden["par_grid"].item()
    step = 2 * grid // 3
    visits = [torch.stack([((torch.arange(side) >= start) & (torch.arange(side) < start + grid)) for start in range(0, side, step)]).sum(0)
              for side in image.shape[1:]]
    averages = cut_windows(lambda x: F.conv2d(x, weight, bias, padding=2), image, len(bias), (grid, grid), (step, step))
    return {"out_score_sum": (averages * torch.outer(*visits))[None], "out_labels": averages.argmax(0).to(torch.uint8)[None]}


def components(golden: Golden) -> Computed:
    def each(maps: np.ndarray) -> np.ndarray:
        return np.stack([largest_component(labels) for labels in maps])

    raw = (golden.tensor("in_logits_3d").softmax(1)[:, 1] >= 0.5).to(torch.uint8)
    return {
        "out_labels_2d": each(golden["in_labels_2d"]), "out_mask_3d_raw": raw, "out_mask_3d": each(raw.numpy()),
        "out_mask_corner": each(golden["in_mask_corner"]),
    }


FILES = {
    "sliding_window_3d": Parity(sliding, tolerances={"out_scores_*": (1e-5, 1e-6)}),
    "sliding_window_2d": Parity(sliding_over_photographs, tolerances={"out_score_sum": (1e-5, 1e-6)}),
    "largest_component": Parity(components),
}
