"""Lays the synthetic data set `PhantomScenes` out on disk as one's own photographs lie, in a folder a part. Drawn once, on first use.

    root/{train,val,test}/images/scene001.png      photographs of several sizes
    root/{train,val,test}/masks/scene001.png       class ids, 255 around things
"""
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from dataloaders.description import Case, DataSet, Part
from dataloaders.layouts import drawn
from dataloaders.layouts.drawn import Drawing
from dataloaders.layouts.images import ImageSource, pictures
from dataloaders.settings import IMAGENET_MEAN, IMAGENET_STD, WHOLE, unimatch

NAME = "PhantomScenes"
COUNTS = {"train": 160, "val": 30, "test": 60}
CLASSES = ("background", "ball", "box", "tree", "star", "ring")


def ensure(root: Path, seed: int = 0) -> None:
    """Draws PhantomScenes of this seed in `root` if it is not there: a few seconds. Raises `UserError` as `drawn.ensure`."""
    from dataloaders.phantoms.phantom_scenes import VERSION  # here and below: no other data set needs what draws this one

    drawn.ensure(Drawing(NAME, VERSION, "10 MB", draw, {"images": COUNTS, "classes": list(CLASSES)}), root, seed)


def draw(folder: Path, seed: int) -> None:
    """Writes all photographs and masks of a seed."""
    from dataloaders.phantoms.phantom_scenes import draw_scene

    for place, (part, count) in enumerate(COUNTS.items()):
        for kind in ("images", "masks"):
            (folder / part / kind).mkdir(parents=True)
        for number in range(1, count + 1):
            for kind, array in zip(("images", "masks"), draw_scene(seed, place, number)):
                Image.fromarray(array).save(folder / part / kind / f"scene{number:03d}.png", compress_level=1)


class ScenesSource(ImageSource):
    """Reads PhantomScenes, which is drawn first where it is not there."""

    def __init__(self, data: DataSet, root: Path, options: Mapping[str, Any] | None = None):
        ensure(Path(root))
        super().__init__(data, root, options)

    @classmethod
    def fits(cls, root: Path) -> bool:
        """Whether a folder holds PhantomScenes."""
        return drawn.holds(root, NAME)

    def cases(self, part: Part) -> list[Case]:
        masks = pictures(self.root / part / "masks")
        return [Case(f"{part}/{stem}", image, masks.get(stem), f"{part}/{stem}", "", part)
                for stem, image in pictures(self.root / part / "images").items()]


DATA_SETS = (
    DataSet(NAME, ScenesSource, CLASSES, channels=3, augmentation="scale_crop", resizing="floor", intensities="8-bit", mean=IMAGENET_MEAN,
            std=IMAGENET_STD, ignored=255, evaluation=WHOLE, family="natural", synthetic=True, special=True,
            defaults=unimatch(model="deeplabv3plus_resnet18", base_lr=0.02, head_rate=1.0, labeled_num="16", patch_size=(97, 97),
                              batch_size=8, labeled_bs=4, max_iterations=600, val_every=100),
            note="PhantomScenes is synthetic: drawn by this program, no photographs."),
)
