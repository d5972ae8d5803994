"""Networks of the papers on photographs."""
from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import torch
from parity_tools import Computed, Golden, Parity
from torch import Tensor, nn

from dataloaders.augmentation import strong_views
from dataloaders.augmentation.augmenter import Augmenter
from dataloaders.augmentation.recipes import RECIPES, Recipe
from dataloaders.augmentation.scale_crop import scaled_sizes
from dataloaders.batches.store import Store
from networks import build
from networks.deeplabv3plus import DeepLabV3Plus

ARGUMENTS = {"S": dict(output_stride=8), "U": dict(output_stride=16, deep_stem=True)}


def filled(shape: torch.Size, kind: str, number: int, salt: int) -> Tensor:
    """A tensor of the state dict by the file's filling rule; `number`: its place in it."""
    z = np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.uint32)
    z *= np.uint32(0x9E3779B1)  # modulo 2^32, as all that follows
    z += np.uint32((number * 0x85EBCA77 + salt) % 2**32)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        z ^= z >> np.uint32(shift)
        z *= np.uint32(factor)
    u = z / 2.0**32
    if kind == "convolution":
        u = (2 * u - 1) * np.sqrt(3 / np.prod(shape[1:]))
    elif kind == "bias":
        u = 0.2 * u - 0.1
    else:
        u = 0.75 + 0.5 * u if kind == "scale" else 0.4 * u - 0.2
    return torch.from_numpy(u.astype(np.float32).reshape(shape))


def fill(network: nn.Module, salt: int) -> None:
    """Gives every tensor of a network the values of the rule."""
    norms = {name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    state = network.state_dict()
    for number, (name, tensor) in enumerate(state.items()):
        module, what = name.rsplit(".", 1)
        if what == "num_batches_tracked":
            tensor.zero_()
        elif module in norms:
            tensor.copy_(filled(tensor.shape, "scale" if what in ("weight", "running_var") else "shift", number, salt))
        else:
            tensor.copy_(filled(tensor.shape, "convolution" if what == "weight" else "bias", number, salt))


def theirs(name: str) -> str:
    """The published name of one of our tensors."""
    name = re.sub(r"^pyramid\.branches\.(\d)\.", r"head.b\1.", name)
    return name.replace("pyramid.pooled.", "head.b4.gap.").replace("pyramid.project.", "head.project.")


def outlined(classes: int, **arguments: int | bool) -> DeepLabV3Plus:
    with torch.device("meta"):
        return DeepLabV3Plus(3, classes, **arguments)  # type: ignore[arg-type]


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def shapes_at(network: DeepLabV3Plus, sides: tuple[int, int]) -> list[int]:
    image = torch.empty(1, 3, *sides, device="meta")
    return [*sides, *(n for x in (*network.encode(image), network(image)) for n in x.shape[1:])]


@torch.no_grad()
def deeplabv3plus(golden: Golden) -> Computed:
    out: Computed = {}
    for kind in [f"{variant}_resnet{depth}" for variant in "SU" for depth in (50, 101)]:
        arguments = {**ARGUMENTS[kind[0]], "depth": int(kind[8:])}
        for classes in (21, 19):
            network = outlined(classes, **arguments)
            out[f"out_parameters_{kind}_c{classes}"] = [count(network), count(network.backbone), count(network) - count(network.backbone)]
        network = outlined(21, **arguments).eval()
        parts = (network.backbone, network.pyramid, network.reduce, network.fuse, network.classifier)
        out[f"out_module_parameters_{kind}"] = [count(part) for part in parts]
        state = network.state_dict()
        out[f"out_keys_{kind}"] = np.array([theirs(name) for name in state])
        out[f"out_shapes_{kind}"] = np.array([[*tensor.shape, *[-1] * (4 - tensor.dim())] for tensor in state.values()])
        out[f"out_feature_shapes_{kind}"] = [shapes_at(network, tuple(row[:2])) for row in golden[f"out_feature_shapes_{kind}"].tolist()]
        if f"out_convolutions_{kind}" in golden.arrays:
            out[f"out_convolutions_{kind}"] = [[m.kernel_size[0], m.stride[0], m.dilation[0], m.padding[0]]
                                               for m in network.modules() if isinstance(m, nn.Conv2d)]
        real = build(f"deeplabv3plus_{kind[2:]}" + ("_stride8" if kind[0] == "S" else "")).eval()
        fill(real, int(golden["par_salt"]))
        maps = real.encode(golden.tensor("in_image"))
        out[f"out_c1_{kind}"] = maps[0][:, ::64, ::2, ::5]
        out[f"out_c4_{kind}"] = maps[-1][:, ::256, :, ::3]
        out[f"out_aspp_{kind}"] = real.pyramid(maps[-1])[:, ::32, :, ::3]
        out[f"out_logits_{kind}"] = real.head(real.decode(maps))[:, :, ::4, ::13]
        if kind == "U_resnet50":
            real.train()
            maps = real.encode(golden.tensor("in_images_train"))
            for place, name in ((0, "in_keep_c1"), (-1, "in_keep_c4")):
                kept = golden.tensor(name)[:, :, None, None]
                maps[place] = torch.cat([maps[place], 2 * kept * maps[place]])
            clean, perturbed = real.head(real.decode(maps))[:, :, ::4, ::7].chunk(2)
            out |= {"out_train_logits": clean, "out_train_logits_perturbed": perturbed}
    return out


def sizes_of(long_side: int, shapes: np.ndarray, share: float = 0.0, scale: tuple[float, float] = (1.0, 1.0)) -> np.ndarray:
    return scaled_sizes(Recipe(scale=scale, long_side=long_side), shapes, {"long_side": np.full(len(shapes), share)})


class Drawn:
    """Stands in for a generator: gives golden attempts at boxes (area, aspect, x, y), and the noise of a box at its place."""

    def __init__(self, attempts: np.ndarray, noise: np.ndarray | None = None, box: Sequence[int] = ()):
        self.values = iter([value for share, ratio, x, y in attempts for value in (share, ratio, int(y), int(x))])
        self.tries, self.noise, self.box = 0, noise, box

    def random(self, n: int) -> np.ndarray:
        return np.zeros(n)

    def uniform(self, low: float, high: float) -> float:
        self.tries += 1
        return next(self.values)

    def integers(self, low: int, high: int | None = None, shape: Sequence[int] = (), kind: type = int) -> Any:
        if not shape:
            return next(self.values)
        assert self.noise is not None
        (top, bottom, left, right), whole = self.box, np.zeros(shape, kind)
        whole[0, :, top:bottom, left:right] = self.noise[: bottom - top, : right - left].transpose(2, 0, 1).astype(kind)
        return whole


def cutout(golden: Golden) -> Computed:
    """ST++'s boxes of noise, which labels ignore."""
    picture, mask = golden["in_cutout_image"], golden["in_cutout_mask"]
    boxes, tries = [], []
    for attempts in golden["in_cutout_draws"]:
        rng = Drawn(attempts)
        rows, columns = np.nonzero(strong_views.cutmix_boxes(rng, 1, mask.shape)[0, 0].numpy())  # type: ignore[arg-type]
        boxes.append([rows.min(), rows.max() + 1, columns.min(), columns.max() + 1])
        tries.append(rng.tries // 2)
    rng = Drawn(golden["in_cutout_draws"][0], golden["in_cutout_noise"], boxes[0])
    pixels = torch.from_numpy(picture.transpose(2, 0, 1)[None].astype(np.float32)) / 255
    images, labels = strong_views.boxes_of_noise(pixels, torch.from_numpy(mask[None].astype(np.int64)), rng)  # type: ignore[arg-type]
    return {"out_cutout_box": np.array(boxes), "out_cutout_tries": np.array(tries), "out_cutout_mask": labels[0],
            "out_cutout_image": (255 * images[0]).round().permute(1, 2, 0).to(torch.uint8)}


def stpp_augment(golden: Golden) -> Computed:
    """Scale, crop and mirror, and Cutout."""
    shapes = np.stack([golden["in_height"], golden["in_width"]], 1)
    out: Computed = {"out_size": np.concatenate([sizes_of(int(n), shapes[k : k + 1]) for k, n in enumerate(golden["in_long_side"])])}
    ends = [[int(sizes_of(base, np.array([[9, 30]]), share, (0.5, 2.0)).max()) for share in (0.0, 0.999999)] for base in (400, 2048)]
    room = np.array([30 - 12, max(9 - 12, 0)])
    out["out_draw_ranges"] = np.array([*ends, *([0, most] for most in room)])
    picture, mask = golden["in_image"], golden["in_mask"]
    begin = np.zeros(1, np.int64)
    store = Store(("picture",), picture.transpose(2, 0, 1).ravel(), mask.ravel(), np.array([mask.shape]), begin, begin, 3, "RAM", 0)
    for kind in golden.endings("in_draws_"):
        long_side, x, y, mirror = golden[f"in_draws_{kind}"].tolist()
        with mock.patch.dict(RECIPES, {"stpp": Recipe(scale=(1.0, 1.0), long_side=int(long_side), photographic=True)}):
            for name, size, flip in (("_resized", sizes_of(int(long_side), store.shapes)[0].tolist(), False),
                                     ("", [int(golden["par_crop"])] * 2, mirror < 0.5)):
                rooms = np.maximum(sizes_of(int(long_side), store.shapes)[0] - size, 0)
                places = ((np.array([y, x]) + 0.5) / (rooms + 1)).tolist() if not name else [0.0, 0.0]
                draws = {"long_side": np.zeros(1), "down": np.array(places[:1]), "across": np.array(places[1:]), "h_flip": np.array([flip])}
                images, labels = Augmenter(store, "stpp", tuple(size), threads=1)(np.zeros(1, int), 1, draws)
                out[f"out_image{name}_{kind}"] = (255 * images[0]).round().permute(1, 2, 0).to(torch.uint8)
                out[f"out_mask{name}_{kind}"] = labels[0]
    return out | cutout(golden)


FILES = {
    "stpp_augment": Parity(stpp_augment),
    "deeplabv3plus": Parity(deeplabv3plus, tolerances={
        "out_c1_*": 1e-5, "out_c4_*": 3e-5, "out_aspp_*": 3e-5, "out_logits_*": 3e-5, "out_train_*": (0.0, 3e-3)}),
}
