"""MT, magnetic tile surface defects (Huang et al., The Visual Computer 2018): one folder a class, grey photographs of any size.

    root/MT_{Blowhole,Break,Crack,Fray,Uneven,Free}/Imgs/exp1_num_108719.jpg    image
                                                          exp1_num_108719.png    anti-aliased mask, 0 to 255
"""
from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dataloaders.description import Case, DataSet, Item, Part, Parts, Source
from dataloaders.errors import UserError
from dataloaders.layouts.images import ImageSource
from dataloaders.listing import listing, with_ending
from dataloaders.settings import IMAGENET_MEAN, IMAGENET_STD, PER_IMAGE, simeps
from dataloaders.splits.draws import by_group, last_first, permuted

DEFECTS = ("Blowhole", "Break", "Crack", "Fray", "Uneven")
EMPTY_MASKS = ("exp3_num_45042", "exp4_num_124690", "exp4_num_352527", "exp4_num_45057")
"""Images of Uneven whose published masks are black; simEps's 388 images are the defective ones without these."""
NEXT_TILE = 150
"""A gap in the frame numbers beyond which another tile begins (measured on the data)."""


def tiles(stems: list[str]) -> dict[str, int]:
    """Number of the tile of each image of a class folder: a tile is photographed under rising exposures, one after the other."""
    parsed = sorted((int(m[2]), int(m[1]), stem) for stem in stems if (m := re.fullmatch(r"exp([0-9]+)_num_([0-9]+)", stem)))
    numbers, tile, before = {}, -1, None
    for frame, exposure, stem in parsed:
        if before is None or exposure <= before[1] or frame - before[0] > NEXT_TILE:
            tile += 1
        numbers[stem], before = tile, (frame, exposure)
    return numbers


def official_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """simEps: a fifth (random_state 69) is test, and there is no validation part."""
    train, test = permuted(source.cases("train"), 0.2, 69)
    return Parts("official", last_first(train, 45), [], test if with_test else None, grouped=False, remarks=(
        "Official split: nearly every test image has another exposure of the same tile in training (--protocol clean has none).",))


def clean_parts(source: Source, split_seed: int, with_test: bool) -> Parts:
    """A fifth is test and 15 % of the rest is validation, by tile and stratified by the class folder."""
    test, rest = by_group(source.cases("train"), 0.2, split_seed)
    val, train = by_group(rest, 0.15, split_seed)
    return Parts("clean", train, val, test if with_test else None, (
        "Clean split: all exposures of a tile stand in one part; in the published split (--protocol official) 97 % of the test "
        "images have another exposure of their tile in training.",))


class MtSource(ImageSource):
    """Reader of MT. The class of a mask is that of its folder, where the mask is above `mask_threshold` (0, as simEps has it)."""

    protocols: ClassVar = {"clean": clean_parts, "official": official_parts}
    expected = "expected MT_Blowhole/Imgs, MT_Break/Imgs and so on"

    def __init__(self, data: DataSet, root: Path, options: Mapping[str, Any] | None = None):
        super().__init__(data, root, options)
        given = options or {}
        self.threshold = int(given.get("mask_threshold", 0))
        if not 0 <= self.threshold <= 254:
            raise UserError(f"--mask_threshold {self.threshold}: write a number from 0 to 254; masks are grey levels from 0 to 255.")
        self.strata = DEFECTS + (("Free",) if given.get("include_free") else ())

    @property
    def cache_key(self) -> str:
        return f"threshold {self.threshold}"

    @classmethod
    def fits(cls, root: Path) -> bool:
        return any((root / f"MT_{name}" / "Imgs").is_dir() for name in DEFECTS)

    def cases(self, part: Part) -> list[Case]:
        if part != "train":
            return []
        cases = []
        for stratum in self.strata:
            folder = self.root / f"MT_{stratum}" / "Imgs"
            if not folder.is_dir():
                raise UserError(f"{folder}: there is no such folder; MT has {', '.join('MT_' + s for s in self.strata)}.")
            images, masks = (listing(folder, with_ending(*endings), deep=False).files for endings in ((".jpg", ".jpeg"), (".png",)))
            tile = tiles(list(images))
            for stem, image in images.items():
                if stem not in EMPTY_MASKS:
                    group = f"{stratum}/tile{tile[stem]:03d}" if stem in tile else f"{stratum}/{stem}"
                    cases.append(Case(stem, image, masks.get(stem), group, stratum))
        seen: dict[str, Path] = {}
        for case in cases:
            if seen.setdefault(case.name, case.image) != case.image:
                raise UserError(f"{seen[case.name]} and {case.image}: one image in two class folders; keep one.")
        return cases

    def to_ids(self, mask: np.ndarray, of: Case | Item) -> np.ndarray:
        case = of.case if isinstance(of, Item) else of
        return (mask > self.threshold) * np.uint8(0 if case.stratum == "Free" else DEFECTS.index(case.stratum) + 1)


DATA_SETS = (
    DataSet("MT", MtSource, ("background", "blowhole", "break", "crack", "fray", "uneven"), channels=3, protocols=("clean", "official"),
            augmentation="simeps_mt", resizing="floor", intensities="8-bit", mean=IMAGENET_MEAN, std=IMAGENET_STD, evaluation=PER_IMAGE,
            family="defect", options=("mask_threshold", "include_free"), strata="class of the defect, by the folder",
            defaults=simeps(steps_per_epoch=29, max_iterations=17371, base_lr=2e-3, labeled_num="40%")),
)
