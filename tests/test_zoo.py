"""Every script in code/: four steps on images and on volumes, killed and resumed to the bit; three in full by their commands."""
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
from harness import SHORT, Bench, metrics, outcome, together

from engine import Options

CODE = Path(__file__).parents[1] / "code"
METHODS = sorted(path.stem.removeprefix("train_") for path in CODE.glob("train_*.py"))
FOUR = ("--dataset", "ACDC", "--max_iterations", "4", "--val_every", "2", "--save_every", "2", "--log_every", "1")
VOLUMES = ("--dataset", "nnunet", "--patch_size", "32", "16", "16", "--max_iterations", "4", "--val_every", "4", "--save_every", "2")
IMAGES_ONLY = ("CCT", "CrossTeaching", "FixMatch", "FixMatchCTA", "FixMatchStandardAugs", "SemSim")
AT_WORK = {"MeanTeacher": ("--consistency_start", "0", "--consistency", "5"), "simEps": ("--num_branches", "2"),
           "UAMT": ("--teacher_passes", "2")}
"""Options under which four steps use all that a method has."""


def variants(method: str) -> list[str]:
    script = import_module(f"train_{method}")
    (kind,) = [k for k in vars(script).values() if isinstance(k, type) and issubclass(k, Options) and k.__module__ == script.__name__]
    return list(get_args(get_type_hints(kind).get("variant"))[1:])


def cases() -> list[tuple[str, ...]]:
    """(method, options), every variant of a method for itself."""
    return [(method, *AT_WORK.get(method, ()), *words) for method in METHODS
            for words in [(), *(("--variant", name) for name in variants(method))]]


@pytest.mark.parametrize("case", cases(), ids=" ".join)
def test_four_steps_on_images(case: tuple[str, ...], bench: Bench) -> None:
    """A killed run ends as an uninterrupted one: all that a method carries from step to step is in the checkpoint."""
    method, *words = case

    def killed_and_resumed():
        return [bench.train(method, *FOUR, *words, model="killed", fault="kill@step:3"), bench.train(method, *FOUR, *words, model="killed")]

    whole, (killed, resumed) = together([lambda: bench.train(method, *FOUR, *words), killed_and_resumed])
    assert whole.code == 0, whole.out + whole.err
    assert killed.code == -signal.SIGKILL and resumed.code == 0 and "resumed at step 2" in resumed.out, resumed.out + resumed.err
    expected, found = outcome(bench.run_folder()), outcome(bench.run_folder("killed"))
    assert [key for key in expected if found.get(key) != expected[key]] == []
    losses = [line["total"] for line in expected["metrics"] if line["kind"] == "train"]
    assert len(losses) == 4 and all(abs(loss) < 1e4 for loss in losses)


@pytest.mark.parametrize("method", METHODS)
def test_four_steps_on_volumes(method: str, bench: Bench, volumes: Path) -> None:
    end = bench.train(method, *VOLUMES, *AT_WORK.get(method, ()), data=volumes)
    if method in IMAGES_ONLY:
        assert end.code == 2 and "Traceback" not in end.err and "volumes" in end.err, end.out + end.err
    else:
        assert end.code == 0 and "test_3D.py --run" in end.out, end.out + end.err


def test_two_networks_quote_the_best_by_validation(bench: Bench) -> None:
    quoted = set()
    for seed in ("1", "2", "3"):
        end = bench.train("CPS", "--seed", seed, "--exp", seed, model=seed)
        assert end.code == 0, end.out + end.err
        folder = bench.run_folder(seed)
        best: dict[str, float] = {}
        for line in metrics(folder):
            if line["kind"].startswith("validation/"):
                name = line["kind"].removeprefix("validation/")
                best[name] = max(best.get(name, 0.0), line["dice/mean"])
        order = torch.load(folder / "best.pt", weights_only=True)["order"]
        assert sorted(order) == sorted(best) == ["ensemble", "model1", "model2"]
        assert best[order[0]] == max(best.values()) > min(best.values()), (order, best)
        quoted.add(order[0])
    assert quoted != {"model1"}, "a seed is needed at which the first named is not the best"


@pytest.mark.parametrize("method, tested", [("URPC", ["network"]), ("CPS", ["ensemble", "model1", "model2"]), ("DAN", ["segmenter"])])
def test_by_its_commands(method: str, tested: list[str], tmp_path: Path, tiny_acdc: Path) -> None:
    """One network, two networks, and a critic: trained, interrupted with Ctrl-C, resumed by the same command, tested."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SEMISEG_MODEL": str(tmp_path / "model"),
                   "SEMISEG_RESULTS": str(tmp_path / "results"), "SEMISEG_CACHE": str(tmp_path / "cache")}
    words = [sys.executable, str(CODE / f"train_{method}.py"), "--root_path", str(tiny_acdc), *SHORT, "--max_iterations", "60",
             "--val_every", "30"]

    def start(command: list[str]) -> subprocess.Popen:
        return subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    first = start(words)
    limit = time.monotonic() + 120
    while not any(file.stat().st_size for file in tmp_path.glob("model/**/metrics.jsonl")):
        assert first.poll() is None and time.monotonic() < limit, first.communicate()[0]
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=60)[0]
    assert first.returncode == 75 and "same command again" in said, said
    second = start(words)
    said = second.communicate(timeout=240)[0]
    assert second.returncode == 0 and "resumed at step" in said, said
    test = start([sys.executable, str(CODE / "test_2D.py")])
    said = test.communicate(timeout=120)[0]
    assert test.returncode == 0 and "Best, median and worst case" in said, said
    found = [json.loads(file.read_text())["run"] for file in (tmp_path / "results").rglob("*.json")]
    assert sorted(run["predictor"] for run in found) == tested and {run["method"] for run in found} == {method}
