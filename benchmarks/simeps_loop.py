"""simEps on NEU-Seg in a loop of its own, without the engine: what keeps a class from being learned in a short run, factor by factor.

    python benchmarks/simeps_loop.py      reads NEU_Seg (or NEU-Seg) under $SEMISEG_DATA, else data/; 10 minutes on an idle core, and more

The authors' loop as far as it is known (docs/methods/simeps.md): their split, 59 steps an epoch, in which the labelled batches of one
shuffled pass, the last of them smaller, come again as they were augmented; two passes a network; three terms of the loss. Of it one factor
at a time is exchanged. Only validation images are looked at. Networks and losses are this repository's, since golden files hold them; all
that is compared with the engine (order, augmentation, batches, optimizer, rates) is written here.

A line of JSON every 59 steps: `incl`, IoU of the inclusion (one matrix of 96 validation images) of each network, `patch`, `scr` likewise;
`miou`, `ens`: mean over images, of the networks and of their mean; `supervised`, mean of the epoch, a network; `ratio`, norm of the
gradient of the weighted similarity term over that of the labels' term, of the first network at this step.
"""
from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import combinations
from math import exp
from pathlib import Path
from typing import Literal

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "code"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import tyro  # noqa: E402
from PIL import Image  # noqa: E402
from scipy import ndimage  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from dataloaders.settings import IMAGENET_MEAN, IMAGENET_STD  # noqa: E402
from losses import supervised_loss, symmetric_similarity_loss  # noqa: E402
from networks import unet  # noqa: E402

EPOCH, UNIT, CLASSES, SHOWN = 59, 150, 4, 96


@dataclass
class Factors:
    seed: int = 1
    steps: int = 944
    weight: float = 50.0
    """Of the similarity term, 0 to leave it out."""
    rise: Literal["none", "run", "ramp"] = "none"
    """How this weight rises: not at all (published), by exp(-5 (1 - t / T)^2) over the run, or as that of the pseudo-labels."""
    consistency: float = 0.1
    rampup: float = 6.0
    """Length of the ramp of the pseudo-labels, in units of 150 steps."""
    augment: Literal["mild", "loud", "flips"] = "mild"
    """mild: noise of Albumentations 0.4.6 (3 to 7 grey levels); loud: of 2.0.8 (51 to 112), with the same words; flips: these alone."""
    repeated: bool = True
    """Labelled batches come again within an epoch; else every batch is drawn and augmented anew."""
    branches: int = 3
    width: int = 16
    """Channels of the finest level."""
    side: int = 64
    crop: int = 0
    """Side of a random crop of the augmented images; 0: whole."""
    batch: int = 8
    learned: float = 2.0
    """End once the inclusion has this IoU in all networks but one."""


def read(side: int) -> tuple[np.ndarray, np.ndarray]:
    """Grey values and labels (N, side, side) uint8 of the training folder, in the order of their names, by OpenCV's nearest rule."""
    base = Path(os.environ.get("SEMISEG_DATA") or ROOT / "data")
    root = next((base / name for name in ("NEU_Seg", "NEU-Seg") if (base / name).is_dir()), None)
    if root is None:
        raise SystemExit(f"no NEU_Seg or NEU-Seg in {base}; set SEMISEG_DATA to the folder that holds it")
    take = np.arange(side) * 200 // side
    arrays: list[list[np.ndarray]] = [[], []]
    for image in sorted((root / "images/training").glob("*.jpg")):
        for found, file in zip(arrays, (image, root / f"annotations/training/{image.stem}.png")):
            found.append(np.asarray(Image.open(file).convert("L"))[np.ix_(take, take)])
    return np.stack(arrays[0]), np.stack(arrays[1])


def held_out(ids: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(kept, held out), as scikit-learn's train_test_split draws them."""
    order = np.random.RandomState(seed).permutation(len(ids))
    count = int(np.ceil(share * len(ids)))
    return ids[order[count:]], ids[order[:count]]


class Feed:
    """Images, their split, and batches under the augmentation of the authors."""

    def __init__(self, factors: Factors):
        self.factors, self.rng = factors, np.random.default_rng(factors.seed)
        self.images, self.labels = read(factors.side)
        rest, self.val = held_out(np.arange(len(self.images)), 0.15, 69)
        self.labeled, self.unlabeled = held_out(rest, 0.9, 45)

    def augmented(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        rng, loud, crop = self.rng, self.factors.augment == "loud", self.factors.crop
        x, y = self.images[index], self.labels[index]
        strong = self.factors.augment != "flips"
        if rng.random() < 0.4:
            x, y = x[:, ::-1], y[:, ::-1]
        if rng.random() < 0.4:
            x, y = x[::-1], y[::-1]
        if strong and rng.random() < 0.5:
            x = np.clip(x * (1 + 0.5 * rng.random()) + 255 * 0.5 * rng.random(), 0, 255).astype(np.uint8)
        if strong and rng.random() < 0.3:
            x = np.rint(ndimage.uniform_filter(x.astype(np.float32), int(rng.choice([3, 5, 7])), mode="mirror")).astype(np.uint8)
        if strong and rng.random() < 0.3:
            turns = int(rng.integers(4))
            x, y = np.rot90(x, turns), np.rot90(y, turns)
        x = np.repeat(x[:, :, None], 3, 2)
        if strong and rng.random() < 0.3:
            deviation = 255 * rng.uniform(0.2, 0.44) if loud else np.sqrt(rng.uniform(10, 50))
            x = np.clip(x + deviation * rng.standard_normal(x.shape), 0, 255).astype(np.uint8)
        if crop:
            top, left = rng.integers(len(x) - crop + 1, size=2)
            x, y = x[top : top + crop, left : left + crop], y[top : top + crop, left : left + crop]
        return normalised(x), np.ascontiguousarray(y)

    def batch(self, ids: Iterable[int]) -> tuple[Tensor, Tensor]:
        images, labels = zip(*(self.augmented(i) for i in ids))
        return tensor(np.stack(images)), torch.from_numpy(np.stack(labels)).long()

    def epoch(self) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        """59 times: labelled images, their labels, unlabelled images."""
        size, order = self.factors.batch, self.rng.permutation(self.labeled)
        others = self.rng.permutation(self.unlabeled)
        made = [self.batch(order[k : k + size]) for k in range(0, len(order), size)] if self.factors.repeated else []
        endless = np.concatenate([order, self.rng.permutation(self.labeled)])
        for k in range(EPOCH):
            images, labels = made[k % len(made)] if made else self.batch(endless[k * size : (k + 1) * size])
            yield images, labels, self.batch(others[k * size : (k + 1) * size])[0]


def normalised(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (3, H, W) float32."""
    return ((rgb.astype(np.float32) / 255 - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)).transpose(2, 0, 1)


def tensor(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).contiguous(memory_format=torch.channels_last)


def scores(predicted: Tensor, labels: Tensor) -> tuple[list[float], float]:
    """IoU of each foreground class, one matrix; and the mean over images of the mean over the classes that they have."""
    def iou(p: Tensor, y: Tensor, c: int) -> float:
        return float(((p == c) & (y == c)).sum() / ((p == c) | (y == c)).sum().clamp(min=1))

    known = [[iou(p, y, c) for c in range(1, CLASSES) if (y == c).any()] for p, y in zip(predicted, labels)]
    return [round(iou(predicted, labels, c), 3) for c in range(1, CLASSES)], round(float(np.mean([np.mean(k) for k in known if k])), 3)


def norm_of(term: Tensor, network: nn.Module) -> float:
    """Of the gradient of a term."""
    slopes = torch.autograd.grad(term, list(network.parameters()), retain_graph=True)
    return float(torch.cat([slope.flatten() for slope in slopes]).norm())


def main(factors: Factors) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(factors.seed)
    unet.WIDTHS = tuple(factors.width * k for k in (1, 2, 4, 8, 16))  # type: ignore[assignment]
    networks = [unet.UNet(3, CLASSES).to(memory_format=torch.channels_last) for _ in range(factors.branches)]  # type: ignore[call-overload]
    optimizers = [torch.optim.Adam(network.parameters(), lr=1e-3) for network in networks]
    feed = Feed(factors)
    shown = feed.val[:SHOWN]
    unseen = tensor(np.stack([normalised(np.repeat(image[:, :, None], 3, 2)) for image in feed.images[shown]]))
    labels_of_unseen = torch.from_numpy(feed.labels[shown]).long()
    print(json.dumps(asdict(factors)), flush=True)
    step, began, costs = 0, time.perf_counter(), [0.0]
    while step < factors.steps:
        for labeled, labels, unlabeled in feed.epoch():
            for network in networks:
                network.train()
            parts = [[network(images) for network in networks] for images in (labeled, unlabeled)]
            supervised = torch.stack([supervised_loss(logits, labels, "linear") for logits in parts[0]]).sum()
            rise = exp(-5 * (1 - min(step // UNIT, factors.rampup) / factors.rampup) ** 2)
            pseudo, similarity = torch.zeros(()), torch.zeros(())
            for logits in parts if factors.branches > 1 else ():
                p = torch.stack([one.detach().softmax(1) for one in logits])
                for k, one in enumerate(logits):
                    pseudo = pseudo + supervised_loss(one, torch.cat([p[:k], p[k + 1 :]]).amax(0).argmax(1), "linear")
                for a, b in combinations(logits, 2):
                    similarity = similarity + symmetric_similarity_loss(a, b)
            by_run = exp(-5 * (1 - step / factors.steps) ** 2)
            weight = factors.weight * {"none": 1.0, "run": by_run, "ramp": rise}[factors.rise]
            step += 1
            told = step % EPOCH == 0
            ratio = (norm_of(weight * similarity, networks[0]) / norm_of(supervised, networks[0])
                     if told and weight and factors.branches > 1 else 0.0)
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)
            (supervised + factors.consistency * rise * pseudo + weight * similarity).backward()
            for optimizer in optimizers:
                optimizer.step()
            costs.append(float(supervised.detach()) / factors.branches)
            if told:
                with torch.no_grad():
                    logits = [network.eval()(unseen) for network in networks]
                each = [scores(one.argmax(1), labels_of_unseen) for one in logits]
                together = scores(torch.stack(logits).mean(0).argmax(1), labels_of_unseen)
                columns = {name: [iou[k] for iou, _ in each] for k, name in enumerate(("incl", "patch", "scr"))}
                print(json.dumps({"step": step, "seconds": round((time.perf_counter() - began) / step, 2), "weight": round(weight, 2),
                                  "supervised": round(float(np.mean(costs[-EPOCH:])), 3), "ratio": round(ratio, 2), **columns,
                                  "miou": [mean for _, mean in each], "ens": together}), flush=True)
                if sum(iou[0] >= factors.learned for iou, _ in each) >= max(factors.branches - 1, 1):
                    return
            if step >= factors.steps:
                break


if __name__ == "__main__":
    main(tyro.cli(Factors, use_underscores=True, description=__doc__))
