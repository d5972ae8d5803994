"""What the authors of several data sets do alike: values of common options (`DataSet.defaults`), and how images are scored."""
from __future__ import annotations

from dataloaders.description import Evaluation

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

SSL4MIS: dict[str, object] = {
    "model": "unet", "patch_size": (256, 256), "batch_size": 24, "labeled_bs": 12, "max_iterations": 30000, "labeled_num": "7",
    "optimizer": "sgd", "base_lr": 0.01, "schedule": "poly", "val_every": 200,
}
"""Common protocol of SSL4MIS in 2D (github.com/HiLab-git/SSL4MIS)."""

HISTOLOGY = SSL4MIS | {"batch_size": 16, "labeled_bs": 8}
"""Crops of photographs of tissue and cells."""

VOLUMES: dict[str, object] = {
    "model": "vnet", "batch_size": 4, "labeled_bs": 2, "max_iterations": 6000, "optimizer": "sgd", "base_lr": 0.01, "schedule": "step",
    "val_every": 1000,
}
"""Common protocol of UA-MT and its followers in 3D (github.com/yulequan/UA-MT)."""

OWN_VOLUMES = VOLUMES | {"model": "unet_3D", "patch_size": (96, 96, 96), "max_iterations": 30000, "schedule": "poly", "val_every": 200,
                         "labeled_num": "all"}
BY_WINDOW = Evaluation(predicted="window")
PER_IMAGE = Evaluation(scored="image", detection=True)
WHOLE = Evaluation(predicted="whole", scored="matrix", best_by="miou")


def simeps(**values: object) -> dict[str, object]:
    """Published protocol of simEps (Sime et al., IEEE TII 2022; github.com/djene-mengistu/simEps), one validation an epoch."""
    return {"model": "unet", "patch_size": (256, 256), "batch_size": 32, "labeled_bs": 16, "optimizer": "adam", "schedule": "plateau",
            "dice": "linear", "passes": "apart", "val_every": values["steps_per_epoch"], **values}


def unimatch(**values: object) -> dict[str, object]:
    """Published protocol of UniMatch (Yang et al., CVPR 2023; github.com/LiheYoung/UniMatch) on photographs: cross-entropy alone, half of
    the batch labelled, poly decay."""
    return {"model": "deeplabv3plus_resnet50", "batch_size": 16, "labeled_bs": 8, "optimizer": "sgd", "schedule": "poly", "dice": "none",
            **values}
