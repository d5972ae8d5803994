"""What a data set says of itself, in fields: nobody guesses it from its layout, its family or the type of its arrays."""
from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import train_MeanTeacher
import train_Supervised
from tiny import write_acdc, write_folder
from train_MeanTeacher import Method as MeanTeacher
from train_Supervised import Method as Supervised

from command_line.declarations import option_names
from command_line.options import parse
from dataloaders.augmentation.recipes import RECIPES
from dataloaders.catalog import DATA_SETS, EVERY, described, open_source
from dataloaders.errors import UserError
from dataloaders.layouts import la
from inference import inference_of


@pytest.mark.parametrize("data", EVERY, ids=lambda data: data.reader.__name__)
def test_the_fields_of_a_data_set_agree(data):
    assert not RECIPES[data.augmentation].photographic or data.intensities == "8-bit"
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
    stored, grey = (inference_of(DATA_SETS[name], (4, 4), None, torch.device("cpu")).inputs(pixels) for name in ("ACDC", "DAGM"))
    assert stored.unique().tolist() == [51]
    assert torch.allclose(grey, torch.tensor((0.2 - 0.5314) / 0.1357))


def test_an_option_of_one_data_set_is_refused_for_another(tmp_path):
    words = ["--dataset", "ACDC", "--root_path", str(tmp_path), "--dagm_classes", "1", "2"]
    with pytest.raises(UserError, match="--dagm_classes: an option of DAGM; it means nothing for ACDC"):
        parse(MeanTeacher, {}, words)
    assert parse(MeanTeacher, {}, ["--dataset", "DAGM", *words[2:]]).dagm_classes == (1, 2)


@pytest.mark.parametrize("name", ["LA", "Pancreas-CT"])
def test_the_ramp_of_a_data_set_serves_the_methods_that_have_one(name, tmp_path):
    words = ["--dataset", name, "--root_path", str(tmp_path)]
    assert parse(MeanTeacher, train_MeanTeacher.PRESETS, words).consistency_rampup == 40
    assert parse(MeanTeacher, {name: {"consistency_rampup": 7.0}}, words).consistency_rampup == 7, "a method's own value is more special"
    assert not hasattr(parse(Supervised, train_Supervised.PRESETS, words), "consistency_rampup")


def test_presets_may_be_those_of_a_family(tmp_path):
    def patience(name, presets):
        return parse(MeanTeacher, presets, ["--dataset", name, "--root_path", str(tmp_path)]).patience

    assert [patience(name, {"defect": {"patience": 3}}) for name in ("MT", "ISIC")] == [3, 50]
    assert patience("MT", {"defect": {"patience": 3}, "MT": {"patience": 4}}) == 4


@pytest.mark.parametrize("data", EVERY, ids=lambda data: data.reader.__name__)
def test_defaults_of_a_data_set_name_options_that_some_script_has(data):
    known = set(option_names(MeanTeacher))
    given = {*data.defaults, *data.options, *(name for values in data.protocol_defaults.values() for name in values)}
    assert given <= known, "a value that nothing takes is silently left out"


@pytest.mark.parametrize("data", EVERY, ids=lambda data: data.reader.__name__)
def test_a_data_set_names_protocols_that_its_reader_makes(data):
    assert {*data.protocols} <= {*data.reader.protocols} and {*data.reader.folds} <= {*data.reader.protocols}
    assert data.reader.new_endings and data.own != bool(data.classes), "classes of own files are told by the files"


def test_the_catalog_needs_no_library_that_loads_slowly():
    """So `--help` and a wrong option are as fast as they were when nothing was looked for in layouts/."""
    program = "import sys, dataloaders.catalog; print(sorted({'h5py', 'nibabel', 'scipy', 'SimpleITK', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                          capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_two_data_sets_of_one_name_are_refused(monkeypatch):
    monkeypatch.setattr(la, "DATA_SETS", (*la.DATA_SETS, DATA_SETS["ACDC"]))
    with pytest.raises(UserError, match=r"layouts/acdc.py and layouts/la.py both describe a data set ACDC; rename one"):
        described()
