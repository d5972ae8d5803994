"""What a data set says of itself, in fields: nobody guesses it from its layout, its family or the type of its arrays."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import write_acdc, write_folder

from dataloaders.augmentation.recipes import RECIPES
from dataloaders.catalog import DATA_SETS, VOLUME_FOLDER, open_source
from val_2D import to_training_size

ALL = [*DATA_SETS.values(), VOLUME_FOLDER]


@pytest.mark.parametrize("data", ALL, ids=lambda data: f"{data.name}-{data.layout}")
def test_the_fields_of_a_data_set_agree(data):
    assert RECIPES[data.augmentation].mapping == data.resizing, "images are resized in training as in prediction"
    assert (data.evaluation.predicted == "window") == (data.dimensions == 3)
    assert (data.mean is None) == (data.std is None)
    assert data.evaluation.scored != "image" or data.evaluation.detection


@pytest.mark.parametrize("name, write, dtype", [("ACDC", write_acdc, np.float32), ("folder", write_folder, np.uint8)])
def test_pixels_are_what_the_description_says(name, write, dtype, tmp_path):
    source = open_source(DATA_SETS[name], write(tmp_path))
    assert source.image(source.cases("train")[0]).dtype == dtype
    assert source.data.intensities == {np.uint8: "8-bit", np.float32: "stored"}[dtype]


def test_stored_whole_numbers_are_no_photograph():
    """Whether values are divided by 255 is said by the data set, not by the type of an array."""
    pixels = np.full((1, 1, 4, 4), 51, np.uint8)
    assert to_training_size(pixels, DATA_SETS["ACDC"], (4, 4)).unique().tolist() == [51]
    grey = to_training_size(pixels, DATA_SETS["DAGM"], (4, 4))
    assert torch.allclose(grey, torch.tensor((0.2 - 0.5314) / 0.1357))
