"""The demo: both sides alike, and its runs lie where it looks for them."""
from __future__ import annotations

from importlib import import_module
from pathlib import Path

import demo
import pytest
from harness import kind_of

from command_line.options import parse
from engine.claim import run_name
from storage.folders import model_folder


@pytest.mark.parametrize("name", list(demo.SHOWS))
def test_both_runs_are_alike_and_found(name: str, tmp_path: Path) -> None:
    show = demo.SHOWS[name]
    found = {}
    for method in ("Supervised", show.method):
        words = demo.command(method, show, 5)[2:]
        script = f"train_{method}"
        options = parse(kind_of(script), getattr(import_module(script), "PRESETS"), [*words, "--root_path", str(tmp_path)])  # noqa: B009
        assert demo.folder(method, show, 5) == model_folder() / run_name(options, "official")
        found[method] = options
    one, other = found.values()
    for option in ("max_iterations", "patch_size", "batch_size", "labeled_num", "precision", "base_lr", "val_every", "seed", "model"):
        assert getattr(one, option) == getattr(other, option), option
