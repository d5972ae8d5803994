"""What validation costs: ACDC's validation volumes (20 in the full set) with Dice and HD95, against steps of training on the same device.

    python benchmarks/validation.py                  reads $SEMISEG_DATA/ACDC, else data/ACDC; some minutes on two cores
    python benchmarks/validation.py --large 100      peak memory of a set of large images; needs no data

Ours is the engine's Validator; the usual way predicts slice by slice, resizes with scipy and scores with medpy (plain.py). The network
runs untrained, and its logits are then pushed to the references, moved by six pixels. Then the shares of a run that validates every
200 steps (data, training, validation), in the usual loop and in ours: Mean Teacher, 256 x 256.
"""
from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "code"))

import numpy as np  # noqa: E402
import torch  # noqa: E402
import train_MeanTeacher  # noqa: E402
from plain import PlainMeanTeacher, as_published, validate_volume  # noqa: E402
from torch import nn  # noqa: E402

from dataloaders import catalog  # noqa: E402
from dataloaders.batches.loader import Loader  # noqa: E402
from dataloaders.batches.store import build_store  # noqa: E402
from dataloaders.description import Case, DataSet, Evaluation, Source  # noqa: E402
from dataloaders.errors import UserError  # noqa: E402
from dataloaders.reading import EvaluationCase  # noqa: E402
from engine.schedules import Form  # noqa: E402
from inference import Validator, inference_of  # noqa: E402
from metrics import score_case  # noqa: E402
from networks import build, ema_update, frozen_copy  # noqa: E402
from networks.folding import for_inference  # noqa: E402
from system.devices import keep_freed_memory  # noqa: E402

EVERY = 200
"""Steps between validations, as published."""
SIDE = 256


def timed(work: Callable[[], object], times: int, device: str) -> list[float]:
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return seconds


class OurMeanTeacher:
    """Our step outside of the engine: the same batches, losses, optimizer and average, without log and checkpoints."""

    def __init__(self, loader: Loader, device: str):
        self.loader, self.device = loader, torch.device(device)
        self.student = build("unet", in_channels=1, num_classes=4).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.teacher = frozen_copy(self.student)
        self.optimizer = Form("sgd").build([{"params": list(self.student.parameters())}], 0.01, self.device)
        self.options = train_MeanTeacher.Method()
        self.batches = loader.batches(0, 10**6)
        self.weight = torch.tensor(0.1, device=self.device)

    def step(self) -> None:
        step, batch = next(self.batches)
        terms = train_MeanTeacher.losses(self.student, self.teacher, batch, self.weight, True, self.options)
        self.optimizer.zero_grad()
        terms["total"].backward()
        self.optimizer.step()
        ema_update(self.teacher, self.student, step, 0.99)


class Steered(nn.Module):
    """A network whose logits are pushed to the references, moved by six pixels: an untrained one would leave nothing to score.

    Slices must come in the order of the volumes, from the first on; after the last it begins again.
    """

    def __init__(self, network: nn.Module, validator: Validator, device: str):
        super().__init__()
        self.network, self.at = network, 0
        maps = [torch.from_numpy(one.reference).long() for one in read_of(validator)]
        resized = [nn.functional.interpolate(m[:, None].float(), (SIDE, SIDE), mode="nearest")[:, 0].long() for m in maps]
        self.maps = torch.cat(resized).roll(6, 1).to(device)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        wanted = self.maps[self.at : self.at + len(images), None]
        self.at = (self.at + len(images)) % len(self.maps)
        return self.network(images).scatter(1, wanted, 1e4)


class ChannelsLast(nn.Module):
    """Hands images on as the engine's predictor does."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images.contiguous(memory_format=torch.channels_last))


def read_of(validator: Validator) -> list[EvaluationCase]:
    """The cases as read."""
    return [validator.cases.loaded(number) for number in range(len(validator.cases))]


class Streets:
    """Images of 1024 x 2048 with 19 classes, drawn when they are read."""

    data = DataSet("streets", Source, tuple(f"class {c}" for c in range(19)), channels=3, resizing="floor", intensities="8-bit",
                   ignored=255, mean=(0.5,) * 3, std=(0.25,) * 3, evaluation=Evaluation("whole", "matrix", "miou"))  # fmt: skip
    root = Path("streets")

    def image(self, of: Case) -> np.ndarray:
        return np.random.default_rng(int(of.name)).integers(0, 256, (3, 1024, 2048), np.uint8)

    def label(self, of: Case) -> np.ndarray:
        return self.image(of)[0] % 19

    def spacing(self, case: Case) -> None:
        return None

    affine = header = spacing


def large(count: int, device: str) -> None:
    """Peak memory of a check and two validations of `count` images of 1024 x 2048, and what they would take if all were kept.

    The network is one convolution: what the set costs is asked, not what a network does.
    """
    cases = [Case(str(k), Path(str(k)), Path(str(k)), str(k)) for k in range(count)]
    validator = Validator(Streets(), cases, inference_of(Streets.data, (512, 512), None, torch.device(device)))  # type: ignore[arg-type]
    network = nn.Conv2d(3, 19, 1).to(device).eval()
    with torch.no_grad():
        network(torch.zeros(1, 3, 1024, 2048, device=device))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    began = time.perf_counter()
    validator.check()
    for _ in range(2):
        validator(network)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"name": "validation large memory", "images": count, "device": device, "MiB_before": round(before),
                      "MiB_peak": round(peak), "MiB_of_all": round(count * 4 * 1024 * 2048 / 2**20),
                      "seconds": round(time.perf_counter() - began, 1)}))  # fmt: skip


def parts(validator: Validator, predict: Callable, device: str) -> dict[str, float]:
    """Seconds of prediction, resizing and scores, one after the other."""
    inference, read = validator.inference, read_of(validator)
    images = [inference.inputs(loaded.pixels).to(device) for loaded in read]
    began = time.perf_counter()
    maps = [inference.maps(predict, slices).cpu().numpy() for slices in images]
    if device == "cuda":
        torch.cuda.synchronize()
    predicted = time.perf_counter()
    native = [inference.native(m, loaded.reference.shape) for m, loaded in zip(maps, read)]
    resized = time.perf_counter()
    for labels, loaded in zip(native, read):
        score_case(labels, loaded.reference, 4)
    return {"prediction": predicted - began, "resizing": resized - predicted, "scores": time.perf_counter() - resized}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--steps", type=int, help="steps that are timed (5 on a CPU, 100 on a GPU)")
    parser.add_argument("--repeats", type=int, help="of the validation (3 on a CPU, 5 on a GPU)")
    parser.add_argument("--large", type=int, metavar="N", help="peak memory of N images of 1024 x 2048 instead, which need no data")
    given = parser.parse_args()
    device, on_cpu = given.device, given.device == "cpu"
    if given.large:
        large(given.large, device)
        return
    steps, repeats = given.steps or (5 if on_cpu else 100), given.repeats or (3 if on_cpu else 5)
    root = Path(os.environ.get("SEMISEG_DATA") or ROOT / "data") / "ACDC"
    try:
        source = catalog.open_source(catalog.named("ACDC"), root)
        items, cases = source.items(source.cases("train")), source.cases("val")
    except UserError as error:
        print(f"ACDC is not there: {error} Set SEMISEG_DATA to the folder that holds ACDC/.")
        return
    half = len(items) // 2
    plain = PlainMeanTeacher([item.image for item in items], half, given.batch, given.batch // 2, device, 0)
    plain.step()
    plain.waited = 0.0
    usual_step = median(timed(plain.step, steps, device))
    usual_wait = plain.waited / steps
    if on_cpu:
        keep_freed_memory()  # after the usual loop, which runs without

    with tempfile.TemporaryDirectory() as cache:
        os.environ["SEMISEG_CACHE"] = cache
        store = build_store(source, items, [True] * half + [False] * (len(items) - half), "auto", device, progress=False)
        loader = Loader(store, range(half), range(half, len(items)), batch_size=given.batch, labeled_bs=given.batch // 2,
                        patch_size=(SIDE, SIDE), recipe="rot_flip", seed=1, device=device)  # fmt: skip
        ours = OurMeanTeacher(loader, device)
        ours.step()
        loader.wait_seconds = 0.0
        our_step = median(timed(ours.step, steps, device))
        our_wait = loader.wait_seconds / steps
        ours.student.eval()
        validator = Validator(source, cases, inference_of(source.data, (SIDE, SIDE), None, torch.device(device)))
        validator.check()
        predict = Steered(ChannelsLast(for_inference(ours.student)), validator, device)
        dice = validator(predict)["mean"]["dice"]
        validations = timed(lambda: validator(predict), repeats, device)
        shares = parts(validator, predict, device)
        network = as_published(build("unet", in_channels=1, num_classes=4)).to(device)
        network.load_state_dict(ours.student.state_dict())
        usual = Steered(network, validator, device)
        few = read_of(validator)[: 4 if on_cpu else 20]
        try:
            usual_validation = sum(
                timed(lambda one=one: validate_volume(one.pixels[0], one.reference, usual, device), 1, device)[0] for one in few
            ) * len(cases) / len(few)
        except ImportError as error:
            usual_validation = float("nan")
            print(f"medpy: not installed ({error})")
        ours.batches.close()
        loader.close()

    ours_s = median(validations)
    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or platform.machine()
    slices = sum(len(one.reference) for one in read_of(validator))
    print(f"{name}, {os.cpu_count()} cores, torch {torch.__version__}; {len(cases)} volumes, {slices} slices, mean Dice {dice:.2f}; "
          f"batch {given.batch}, {SIDE} x {SIDE}")  # fmt: skip
    print(f"median of {repeats} validations and {steps} steps; shares of {EVERY} steps and one validation\n")
    print(f"{'':24}{'validation s':>14}{'step s':>9}{'in steps':>10}{'data':>8}{'training':>10}{'validation':>12}")
    for who, validation, step, wait in (
        ("usual loop", usual_validation, usual_step, usual_wait), ("ours", ours_s, our_step, our_wait),
    ):  # fmt: skip
        whole = EVERY * step + validation
        print(f"{who:24}{validation:14.2f}{step:9.3f}{validation / step:10.1f}{EVERY * wait / whole:8.1%}"
              f"{EVERY * (step - wait) / whole:10.1%}{validation / whole:12.1%}")  # fmt: skip
    print("ours, parts one by one: " + ", ".join(f"{part} {1000 * seconds:.0f} ms" for part, seconds in shares.items()))
    if len(few) < len(cases):
        print(f"(the usual validation was timed on {len(few)} volumes, and taken as many times as there are more)")
    print()
    print(json.dumps({"name": "validation ACDC steps", "steps": round(ours_s / our_step, 2), "limit": 20, "device": device,
                      "volumes": len(cases), "ratio": round(usual_validation / ours_s, 1)}))  # fmt: skip


if __name__ == "__main__":
    main()
