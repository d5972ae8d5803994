"""What many runs at once gain: six equal runs one after another and two at once, and how many a GPU holds.

    python benchmarks/sweep.py                  six one-thread runs of at least 60 s on Phantom, twice; about eleven minutes on two cores
    python benchmarks/sweep.py --seconds 5      a trial

Runs are Supervised on Phantom with seeds 0 to 5, trained and tested by the scripts themselves in a folder of their own. The number of
steps follows from a short run before, which also writes the cache. Ray's start is timed by itself and counted in neither.

The second table needs no GPU: the bytes that a training step holds are those of weights, gradients and momentum, and of the tensors that
autograd saves, counted on torch's meta device (shapes alone) with the patch, batch and network of the data set. A process on a GPU adds
the CUDA context and the allocator's slack. It is an estimate of what fits, not a timing: several runs on a GPU share its cores too.
"""
from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "code"))

import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import networks  # noqa: E402
from dataloaders import catalog  # noqa: E402
from sweeps.board import Board  # noqa: E402
from sweeps.grid import combinations  # noqa: E402
from sweeps.in_turn import in_turn  # noqa: E402
from sweeps.on_ray import on_ray  # noqa: E402
from sweeps.planning import plan  # noqa: E402
from sweeps.work import Job, read_json  # noqa: E402

RUNS, AT_ONCE, GOAL = 6, 2, 1.3
TRIAL_STEPS = 60
CONTEXT, SLACK = 0.6 * 2**30, 1.15
"""Bytes of a process on a GPU before the first tensor, and what the allocator holds beyond what is used: typical, not measured here."""
GPUS = (8, 12, 16, 24, 40, 80)
METHODS = {"Supervised": (1, 0), "Mean Teacher": (1, 1), "CPS": (2, 0)}
"""Networks that are trained, and copies that are not."""
SETS = ("Phantom", "ACDC", "NEU-Seg", "LA", "BraTS2019")


def jobs_of(name: str, seeds: range, steps: int) -> list[Job]:
    """Runs of Supervised on Phantom, validated at the end alone."""
    data, root, _ = catalog.resolve("Phantom", None, ROOT)
    catalog.open_source(data, root)
    extra = [["--max_iterations", str(steps)], ["--val_every", str(steps)], ["--device", "cpu"]]
    return plan(combinations(["Supervised"], ["7"], [], None, seeds, False), ["--dataset", "Phantom", "--root_path", str(root)], extra,
                None, name, 1)[0]


def seconds_of(job: Job) -> float:
    """What a run took by its own clock, training and validation, without the start of Python."""
    status = read_json(Path(job.folder) / "status.json")
    return status["seconds"] + status["validation_seconds"]


def timed(jobs: list[Job], at_once: int) -> tuple[float, float]:
    """(seconds of the sweep, seconds of Ray's start; 0 without it)."""
    board = Board("benchmark", jobs, f"{time.time()}", at_once)
    began = time.perf_counter()
    with in_turn(board, 1) if at_once == 1 else on_ray(board, at_once, None, 0, 1) as run:
        ready = time.perf_counter()
        ended = run(jobs)
        took = time.perf_counter() - ready
    board.end()
    failed = {job.title: outcome.reason for job, outcome in ended.items() if outcome.state != "done"}
    if failed:
        sys.exit(f"runs failed: {failed}")
    return took, ready - began


def saved_bytes(network: nn.Module, images: Tensor) -> int:
    """Bytes that autograd keeps for the backward pass of a forward pass and its softmax, each storage once, weights not counted."""
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, tuple[Tensor, int]] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = (tensor, storage.nbytes())  # the tensor is held, so that no other takes its storage's place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = network(images)
        torch.log_softmax(logits[0] if isinstance(logits, tuple) else logits, 1).sum()
    return sum(size for _, size in kept.values())


def peak(data_set: str, trained: int, copies: int) -> float:
    """Bytes of a step at its peak, by the model of this file's docstring."""
    data = catalog.named(data_set)
    defaults: dict[str, Any] = dict(data.defaults)
    network = networks.build(defaults["model"], in_channels=data.channels, num_classes=len(data.classes)).to("meta").train()
    images = torch.empty(defaults["batch_size"], data.channels, *defaults["patch_size"], device="meta")
    weights = sum(parameter.numel() for parameter in network.parameters()) * 4
    momenta = 2 if defaults["optimizer"] == "adam" else 1
    return trained * (weights * (2 + momenta) + saved_bytes(network, images)) + copies * weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="each run takes at least as long")
    parser.add_argument("--table_only", action="store_true", help="only what GPUs hold")
    options = parser.parse_args()
    if not options.table_only:
        with tempfile.TemporaryDirectory() as folder:
            os.environ |= {"SEMISEG_MODEL": f"{folder}/model", "SEMISEG_RESULTS": f"{folder}/results"}
            speed(options.seconds)
    table()


def speed(seconds: float) -> None:
    """Prints what two at once gain."""
    trial = jobs_of("trial", range(1), TRIAL_STEPS)
    timed(trial, 1)
    steps = math.ceil(1.15 * seconds / read_json(Path(trial[0].folder) / "status.json")["seconds"] * TRIAL_STEPS)
    sweeps = {at_once: jobs_of(f"at_once{at_once}", range(RUNS), steps) for at_once in (1, AT_ONCE)}
    took = {at_once: timed(jobs, at_once) for at_once, jobs in sweeps.items()}
    print(f"\n{platform.processor() or platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}; "
          f"{RUNS} runs of {steps} steps, one thread each")
    print(f"{'':<22}{'sweep':>9}{'shortest run':>14}{'longest run':>13}")
    for at_once, jobs in sweeps.items():
        each = [seconds_of(job) for job in jobs]
        name = "one after another" if at_once == 1 else f"{at_once} at once"
        print(f"{name:<22}{took[at_once][0]:>7.1f} s{min(each):>12.1f} s{max(each):>11.1f} s")
    gain = took[1][0] / took[AT_ONCE][0]
    print(f"{AT_ONCE} at once: {gain:.2f} times as fast (goal: {GOAL}); Ray's start, not counted: {took[AT_ONCE][1]:.1f} s")
    memory = max(read_json(Path(job.folder) / "status.json")["peak_memory"] for job in sweeps[1])
    print(f"Peak memory of a run here: {memory / 2**20:.0f} MiB with Python and torch; the step itself by the model below: "
          f"{peak('Phantom', 1, 0) / 2**20:.0f} MiB")


def table() -> None:
    """Prints how many runs a GPU holds."""
    print("\nRuns that fit on one GPU, by memory in GiB (estimate; --gpus_per_run is one over it)")
    print(f"{'':<28}{'a run':>10}" + "".join(f"{size:>6}" for size in GPUS))
    for name in SETS:
        for method, (trained, copies) in METHODS.items():
            whole = CONTEXT + SLACK * peak(name, trained, copies)
            fitting = "".join(f"{int(size * 2**30 // whole):>6}" for size in GPUS)
            print(f"{name + ', ' + method:<28}{whole / 2**30:>6.1f} GiB{fitting}")


if __name__ == "__main__":
    main()
