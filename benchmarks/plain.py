"""The usual training loop of this field, in plain PyTorch: what the benchmarks measure ours against.

float32, contiguous; a data set that opens an h5 file for each sample, turns or rotates it with scipy and zooms it; a DataLoader; Mean
Teacher with a Dice loss class by class, a moving average parameter by parameter, and each loss read at each step. Validation slice by
slice, with scipy's zoom before and after, and medpy class by class.
"""
from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler

from networks import build
from networks.dropout import Dropout

SIDE, CLASSES = 256, 4


class Slices(Dataset):
    """Everything anew for each sample."""

    def __init__(self, paths: list[Path], side: int = SIDE):
        self.paths, self.side = paths, side

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with h5py.File(self.paths[index], "r") as file:
            pair = [file["image"][:], file["label"][:]]
        if random.random() > 0.5:
            turns, axis = np.random.randint(4), np.random.randint(2)
            pair = [np.flip(np.rot90(a, turns), axis).copy() for a in pair]
        else:
            angle = np.random.randint(-20, 20)
            pair = [ndimage.rotate(a, angle, order=0, reshape=False) for a in pair]
        image, label = (ndimage.zoom(a, (self.side / a.shape[0], self.side / a.shape[1]), order=0) for a in pair)
        return torch.from_numpy(image.astype(np.float32))[None], torch.from_numpy(label.astype(np.uint8))


class TwoParts(Sampler):
    """Batches of indices: labelled ones first, then unlabelled ones, without end."""

    def __init__(self, labeled: int, total: int, labeled_bs: int, unlabeled_bs: int):
        self.parts = ((range(labeled), labeled_bs), (range(labeled, total), unlabeled_bs))

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            yield [i for rows, size in self.parts for i in random.choices(rows, k=size)]


def as_published(network: nn.Module) -> nn.Module:
    """Our U-Net with torch's own dropout and activations that make a new tensor, as its published form has them."""
    for module in network.modules():
        if isinstance(module, nn.LeakyReLU):
            module.inplace = False
        for name, child in list(module.named_children()):
            if isinstance(child, Dropout):
                setattr(module, name, nn.Dropout(child.p))
    return network


def dice_loss(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Squared denominators, a loop over classes."""
    target = torch.cat([(labels == c).unsqueeze(1) for c in range(CLASSES)], 1).float()
    loss = torch.zeros((), device=labels.device)
    for c in range(CLASSES):
        p, y = probabilities[:, c], target[:, c]
        loss = loss + 1 - (2 * (p * y).sum() + 1e-5) / ((p * p).sum() + (y * y).sum() + 1e-5)
    return loss / CLASSES


class PlainMeanTeacher:
    """Batches and steps; `waited` are the seconds spent for data."""

    def __init__(self, paths: list[Path], labeled: int, batch: int, labeled_bs: int, device: str, workers: int):
        sampler = TwoParts(labeled, len(paths), labeled_bs, batch - labeled_bs)
        self.loader = iter(DataLoader(Slices(paths), batch_sampler=sampler, num_workers=workers, pin_memory=device == "cuda"))
        torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True  # as the published scripts set them
        torch.manual_seed(1337)
        self.student = as_published(build("unet", in_channels=1, num_classes=CLASSES)).to(device).train()
        self.teacher = as_published(build("unet", in_channels=1, num_classes=CLASSES)).to(device).train()
        for parameter in self.teacher.parameters():
            parameter.detach_()
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        self.device, self.labeled_bs, self.waited, self.done = device, labeled_bs, 0.0, 0

    def step(self) -> dict[str, float]:
        began = time.perf_counter()
        images, labels = next(self.loader)
        self.waited += time.perf_counter() - began
        images, labels = images.to(self.device), labels.to(self.device)
        n = self.labeled_bs
        logits = self.student(images)
        soft = torch.softmax(logits, 1)
        noise = torch.clamp(torch.randn_like(images[n:]) * 0.1, -0.2, 0.2)
        with torch.no_grad():
            target = torch.softmax(self.teacher(images[n:] + noise), 1)
        loss_ce = F.cross_entropy(logits[:n], labels[:n].long())
        loss_dice = dice_loss(soft[:n], labels[:n])
        consistency = torch.mean((soft[n:] - target) ** 2)
        loss = 0.5 * (loss_ce + loss_dice) + 0.1 * consistency
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        alpha = min(1 - 1 / (self.done + 1), 0.99)
        for average, parameter in zip(self.teacher.parameters(), self.student.parameters()):
            average.data.mul_(alpha).add_(parameter.data, alpha=1 - alpha)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.01 * (1.0 - self.done / 30000) ** 0.9
        self.done += 1
        return {"loss": loss.item(), "loss_ce": loss_ce.item(), "loss_dice": loss_dice.item(), "consistency": consistency.item()}


def validate_volume(image: np.ndarray, label: np.ndarray, network: nn.Module, device: str, side: int = SIDE) -> list[tuple[float, float]]:
    """(Dice, HD95) of each foreground class of a volume (S, H, W)."""
    from medpy.metric import binary

    prediction = np.zeros_like(label)
    network.eval()
    for k in range(len(image)):
        height, width = image[k].shape
        resized = ndimage.zoom(image[k], (side / height, side / width), order=0)
        with torch.no_grad():
            logits = network(torch.from_numpy(resized)[None, None].float().to(device))
            labels = torch.argmax(torch.softmax(logits, 1), 1)[0].cpu().numpy()
        prediction[k] = ndimage.zoom(labels, (height / side, width / side), order=0)
    scores = []
    for c in range(1, CLASSES):
        p, r = prediction == c, label == c
        scores.append((binary.dc(p, r), binary.hd95(p, r)) if p.any() and r.any() else (0.0, 0.0))
    return scores
