"""LA, left atrium (Xiong et al., Medical Image Analysis 2021), as UA-MT prepared it.

    root/2018LA_Seg_Training Set/<case>/mri_norm2.h5     image and label (X, Y, Z)
    root/train.list  test.list
"""
from __future__ import annotations

from typing import ClassVar

from dataloaders.description import DataSet, official_parts
from dataloaders.intensities import standardised
from dataloaders.layouts.volumes import VolumeSource, folds_of_lists
from dataloaders.settings import BY_WINDOW, VOLUMES

MCF = folds_of_lists("LA", "mcf", 5)
"""The folds of MCF (Wang et al., CVPR 2023); the first has the official parts."""


class LaSource(VolumeSource):
    """Reader of LA."""

    protocols: ClassVar = {"official": official_parts, "mcf": MCF[0]}
    folds: ClassVar = {"mcf": MCF[1]}

    folders = ("2018LA_Seg_Training Set", "data/2018LA_Seg_Training Set", "data", ".")
    pattern = "*/mri_norm2.h5"
    raw = (standardised, "mean 0 and deviation 1, as prepare.py la does; not cropped, since the published crop needs the reference")


DATA_SETS = (
    DataSet("LA", LaSource, ("background", "atrium"), dimensions=3, protocols=("official", "mcf"), evaluation=BY_WINDOW,
            defaults=VOLUMES | {"labeled_num": "8", "patch_size": (112, 112, 80), "stride": (18, 18, 4), "dice": "foreground",
                                "consistency_rampup": 40.0},
            annotated={2: 43, 1: None},
            note="LA: the published preparation crops every volume around its reference label, test volumes too."),
)
