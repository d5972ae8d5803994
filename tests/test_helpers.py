"""docs/helpers.md is what the code says of itself, and says all of it."""
from __future__ import annotations

import inspect
import re
import runpy
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

DOCS = Path(__file__).resolve().parents[1] / "docs"
HELPERS = runpy.run_path(str(DOCS / "helpers.py"))
INSIDE = {"one_hot", "sample_dice_loss", "flat_dice_loss", "halved_dice_loss", "plain_foreground_dice", "world", "rows_count", "total",
          "without_rows",
          "with_brightness", "with_contrast", "with_saturation", "with_hue", "grey", "denormalised", "normalised", "limits", "send", "on",
          "constant", "summed_errors", "wide", "smallest", "rounded", "of_all", "gathered", "direction", "groups_of", "salience",
          "present", "sum_and_count"}
"""What shared modules use among themselves."""
SHARED = ("dataloaders.augmentation.copy_paste", "dataloaders.augmentation.displacement", "dataloaders.augmentation.patches",
          "dataloaders.augmentation.reversible", "dataloaders.augmentation.strong_views", "dataloaders.augmentation.strong_volumes",
          "dataloaders.splits.sites", "losses.ambiguity", "losses.class_similarity", "losses.class_weights", "losses.consistency",
          "losses.contrast", "losses.correlation", "losses.evidential", "losses.mixtures", "losses.overlap", "losses.prototypes",
          "losses.pseudo_labels", "losses.ranks", "losses.semantic", "losses.similarity", "losses.supervised", "losses.uncertainty",
          "networks.averaging", "networks.initial", "networks.passes", "networks.perturbations")


def test_the_page_is_what_the_code_says():
    assert (DOCS / "helpers.md").read_text(encoding="utf-8") == HELPERS["page"](), "python docs/helpers.py writes it anew"


@pytest.mark.parametrize("module", SHARED)
def test_no_shared_function_is_missing(module: str):
    listed = {name for _, _, _, names in HELPERS["SECTIONS"] for name in names}
    found = import_module(module)
    own = {name for name, thing in vars(found).items() if inspect.isfunction(thing) and thing.__module__ == module and name[0] != "_"}
    assert own - listed - INSIDE == set(), "add the name to SECTIONS in docs/helpers.py"


def test_every_public_method_of_a_run_that_a_script_calls_is_there():
    called = {name for script in (DOCS.parent / "code").glob("train_*.py") for name in re.findall(r"\brun\.(\w+)\(", script.read_text())}
    read = {name for script in (DOCS.parent / "code").glob("train_*.py") for name in re.findall(r"\bbatch\.(\w+)", script.read_text())}
    assert called <= set(HELPERS["OF_A_RUN"]) and read <= set(HELPERS["OF_A_BATCH"])


def test_signatures_are_as_one_types_them():
    def example(self: Any, images: Any, *more: int, area: tuple[float, float] = (0.02, 1 / 0.3), mode: str = "a", **rest: Any) -> None:
        """First.

        Second: {x}.
        """

    assert HELPERS["entry"]("run.example", example) == (
        "run.example(images, *more, area=(0.02, 3.333), mode='a', **rest)\n    First.\n    Second: {x}.\n")
