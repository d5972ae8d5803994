"""Stages: what one writes the next one is fed, and a kill anywhere changes no bit of the end; on real slices where there are any."""
from __future__ import annotations

import json
import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import Bench, metrics, outcome, together
from PIL import Image

from engine import saving
from evaluation.results import training_of
from pictures.curves import learning_curves, read_curves

WORDS = ("--max_iterations", "6", "--val_every", "3", "--save_every", "2")


@pytest.fixture
def slices(tiny_acdc: Path) -> Path:
    """Real ACDC, unpacked small, where SEMISEG_DATA says; else the tiny one."""
    real = os.environ.get("SEMISEG_DATA")
    return Path(real) / "ACDC" if real else tiny_acdc


def test_a_stage_learns_from_masks_of_the_one_before_and_kills_anywhere_change_no_bit(bench: Bench, slices: Path) -> None:
    def killed(model: str, *faults: str):
        for fault in faults:
            assert bench.train("two_stages", *WORDS, model=model, data=slices, fault=fault).code == -signal.SIGKILL, fault
        end = bench.train("two_stages", *WORDS, model=model, data=slices)
        assert end.code == 0, end
        return end

    jobs = {"whole": (), "between": ("kill@rename-made_by.json:1",),
            "killed": ("kill@step:3", "kill@pseudo_mask:2", "kill@pseudo_mask:3", "kill@step:4")}
    ends = dict(zip(jobs, together([partial(killed, model, *faults) for model, faults in jobs.items()])))
    folders = {model: bench.run_folder(model) for model in jobs}
    whole = outcome(folders["whole"])
    for model in jobs:
        assert outcome(folders[model]) == whole, model
    written = {model: {file.name: file.read_bytes() for file in (folder / "pseudo_masks" / "masks").iterdir()}
               for model, folder in folders.items()}
    assert written["killed"] == written["between"] == written["whole"] and len(written["whole"]) > 3
    assert_stages_are_first_class(folders["whole"], ends["whole"].out)


def assert_stages_are_first_class(folder: Path, out: str) -> None:
    mask = next((folder / "pseudo_masks" / "masks").glob("*.png"))
    confidence = np.load(mask.with_suffix(".confidence.npy"))
    labels = np.asarray(Image.open(mask))
    assert labels.shape == confidence.shape and labels.max() < 4 and confidence.dtype == np.float32 and 0.25 <= confidence.max() <= 1
    lines = out.splitlines()
    assert lines.index(next(line for line in lines if line.startswith("Folder: "))) < lines.index(
        next(line for line in lines if line.startswith("first: step 3: validation")))
    status = json.loads((folder / "status.json").read_text())
    stages = status["stages"]
    assert [(stage["stage"], stage["steps"]) for stage in stages] == [("first", 6), ("", 6)] and status["step"] == 12
    assert status["seconds"] == pytest.approx(sum(stage["seconds"] for stage in stages))
    training = training_of(status)
    assert training["stages"] == stages and training["step"] == 12 and training["seconds"] == status["seconds"]
    assert training["peak_memory"] == max(stage["peak_memory"] for stage in stages)
    assert "stages" not in training_of({**status, "stages": stages[:1]}), "of one stage the sums say all"
    assert [line.get("stage", "") for line in metrics(folder) if line["kind"] == "train"] == ["first"] * 3 + [""] * 3
    losses, scores, ends = read_curves(folder / "metrics.jsonl")
    assert ends == {"first": 6} and [step for step, _ in losses["total"]] == [8, 10, 12] and "stage" not in losses
    assert [step for step, _ in losses["total (first)"]] == [2, 4, 6] and [step for step, _ in scores["network"]] == [9, 12]
    assert learning_curves(folder / "metrics.jsonl", folder / "curves.png")
    last = torch.load(folder / "last.pt", weights_only=True)
    assert last["optimizers"]["network"]["optimizer"]["param_groups"][0]["weight_decay"] == 1e-2


def test_the_result_of_a_stage_survives_damage_to_its_last_checkpoint(bench: Bench) -> None:
    """Where nothing was validated the last checkpoint is the result, and the one before stands in for it."""
    assert bench.train("two_stages", *WORDS, fault="kill@pseudo_mask:1").code == -signal.SIGKILL
    folder, said = bench.run_folder(), list[str]()
    (folder / "first_best.pt").unlink()
    (folder / "first_last.pt").write_bytes(b"cut off")
    found = saving.result(folder, "first", "network", said.append)
    before = torch.load(folder / "first_last.prev.pt", weights_only=True)["networks"]["network"]["state"]
    assert all(torch.equal(found["state"][name], value) for name, value in before.items()) and "first_last.prev.pt" in said[0]


def test_an_optimizer_that_follows_no_score_is_refused_under_plateau(bench: Bench) -> None:
    end = bench.train("awkward_critic", "--critic_schedule", "plateau")
    assert end.code == 2 and "the optimizer critic would keep its rate for ever" in end.err, end


def test_volumes_get_masks_too(bench: Bench, volumes: Path) -> None:
    end = bench.train("two_stages", "--max_iterations", "1", "--first_steps", "1", "--batch_size", "2", "--dataset", "nnunet",
                      "--patch_size", "32", "16", "16", "--labeled_num", "3", data=volumes)
    assert end.code == 0, end
    files = sorted((bench.run_folder() / "pseudo_masks" / "masks").glob("*.npy"))
    masks, sure = ([np.load(file) for file in files if ("confidence" in file.name) is kind] for kind in (False, True))
    assert len(masks) == len(sure) >= 2 and all(mask.dtype == np.uint8 and mask.ndim == 3 for mask in masks)
    assert all(mask.shape == map_.shape and map_.min() >= 0.5 for mask, map_ in zip(masks, sure))
