"""LA, left atrium (Xiong et al., Medical Image Analysis 2021), as UA-MT prepared it.

    root/2018LA_Seg_Training Set/<case>/mri_norm2.h5     image and label (X, Y, Z)
    root/train.list  test.list
"""
from __future__ import annotations

from dataloaders.description import DataSet
from dataloaders.intensities import standardised
from dataloaders.layouts.volumes import VolumeSource
from dataloaders.settings import BY_WINDOW, VOLUMES


class LaSource(VolumeSource):
    """Reader of LA."""

    folders = ("2018LA_Seg_Training Set", "data/2018LA_Seg_Training Set", "data", ".")
    pattern = "*/mri_norm2.h5"
    raw = (standardised, "mean 0 and deviation 1, as prepare.py la does; not cropped, since the published crop needs the reference")


DATA_SETS = (
    DataSet("LA", LaSource, ("background", "atrium"), dimensions=3, evaluation=BY_WINDOW,
            defaults=VOLUMES | {"labeled_num": "8", "patch_size": (112, 112, 80), "stride": (18, 18, 4), "dice": "foreground",
                                "consistency_rampup": 40.0},
            note="LA: the published preparation crops every volume around its reference label, test volumes too."),
)
