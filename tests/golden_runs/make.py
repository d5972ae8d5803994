"""Makes the archives beside this file: runs of the code of commit bab049a, trained, tested and used by that code.

    git worktree add /tmp/old bab049a
    python tests/golden_runs/make.py /tmp/old

Networks are narrow (narrow.py), and their weights are rounded to a coarse grid before that code tests them, so that an archive takes a
hundredth of its size; what tests do not need of a finished run (last.pt, pictures, tensorboard) is left out. `test_old_runs.py` draws
the data again by the same seeds.
"""
from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS))

from old_runs import KINDS, Kind, write_data  # noqa: E402

NARROWLY = """
import runpy, sys
from narrow import make_narrow
make_narrow()
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
LEFT_OUT = ("log", "predictions", "lock", "learning_curves.png", "best_median_worst.png")


def rounded(value: object, grid: float) -> object:
    """Weights of convolutions on a grid of their own, of `grid` steps a standard deviation."""
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.ndim > 1:
        step = value.std() / grid
        return (value / step).round() * step if step > 0 else value
    if isinstance(value, dict):
        return {key: rounded(item, grid) for key, item in value.items()}
    return [rounded(item, grid) for item in value] if isinstance(value, list) else value


def coarsen(code: Path, file: Path, grid: float) -> None:
    """Rounds a checkpoint's weights; the old code writes it, with the digest beside it."""
    torch.save(rounded(torch.load(file, weights_only=True), grid), file.with_suffix(".rounded"))
    program = ("import sys, torch; from pathlib import Path; from engine import checkpoint; file = Path(sys.argv[1]); "
               "checkpoint.save(file, torch.load(file.with_suffix('.rounded'), weights_only=True))")
    subprocess.run([sys.executable, "-c", program, str(file)], check=True, env={**os.environ, "PYTHONPATH": str(code)})
    file.with_suffix(".rounded").unlink()


def make(kind: Kind, old: Path, data: Path, work: Path) -> Path:
    """Trains, tests and predicts one kind with the code in `old`; gives the archive."""
    code = old / "code"
    place = {"SEMISEG_MODEL": "model", "SEMISEG_RESULTS": "results", "SEMISEG_CACHE": "cache"}
    environment = {**os.environ, "PYTHONPATH": f"{code}:{TESTS}", "OMP_NUM_THREADS": "1",
                   **{key: str(work / name) for key, name in place.items()}}

    def call(script: Path, *words: object, codes: tuple[int, ...] = (0,), **more: str) -> None:
        done = subprocess.run([sys.executable, "-c", NARROWLY, str(script), *map(str, words)], env={**environment, **more})
        assert done.returncode in codes, done

    script = old / "tests" / "awkward_stages.py" if kind.script == "awkward_stages" else code / f"train_{kind.script}.py"
    for seed in kind.seeds:
        words = ("--root_path", data, *kind.words, "--seed", seed)
        if kind.killed_at:
            call(script, *words, codes=(-9,), SEMISEG_FAULT=f"kill@step:{kind.killed_at}")
        else:
            call(script, *words)
    for config in sorted((work / "model").rglob("config.json")):
        run = config.parent
        if not kind.made_again:
            for name in ("best.pt", *(["last.pt"] if kind.killed_at else [])):
                coarsen(code, run / name, kind.grid)
        if not kind.killed_at:
            call(code / f"test_{kind.dimensions}D.py", "--run", run, "--device", "cpu")
            for file in [*run.glob("*last*"), *run.glob("*_best.pt*"), *(work / "results").rglob("*.png")]:
                file.unlink()
        if kind.images:
            call(code / "predict.py", "--run", run, "--input", data / kind.images, "--output", work / "out", "--save", "masks",
                 "--device", "cpu")
            (work / "predicted").mkdir()
            (work / "out" / "confidence.csv").rename(work / "predicted" / "confidence.csv")
        for file in [*run.glob("*.prev.pt*"), *(run.glob("*.pt*") if kind.made_again else ())]:
            file.unlink()
        for name in LEFT_OUT:
            shutil.rmtree(run / name) if (run / name).is_dir() else (run / name).unlink(missing_ok=True)
    archive = Path(__file__).parent / f"{kind.name}.tar.xz"
    with tarfile.open(archive, "w:xz", preset=9) as tar:
        for file in sorted(path for name in ("model", "results", "predicted") for path in (work / name).rglob("*") if path.is_file()):
            entry = tar.gettarinfo(file, str(file.relative_to(work)))
            entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, 0, "", ""
            with open(file, "rb") as content:
                tar.addfile(entry, content)
    return archive


if __name__ == "__main__":
    for kind in KINDS:
        if len(sys.argv) == 2 or kind.name in sys.argv[2:]:
            with tempfile.TemporaryDirectory() as place:
                data = write_data(kind.data, Path(place) / "data")
                made = make(kind, Path(sys.argv[1]).resolve(), data, Path(place))
                print(f"{made.name}: {made.stat().st_size / 1024:.0f} KiB", flush=True)
