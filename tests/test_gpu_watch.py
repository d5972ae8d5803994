"""On a GPU nothing would break and no step would wait: every script, network and tester under the watch of `gpu_watch.py`.

A script is run by its own `main` through the engine with --device cuda --deterministic 2: two steps of the real loop, of which the second
is counted, a validation, the saves, the end. A new script needs no line here. SEMISEG_GPU_TABLE=FILE writes what was counted, as JSON;
`python -m gpu_watch BEFORE AFTER` makes the table of docs/gpu.md of two such files.
"""
from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import test_every_method
import torch
import train_MeanTeacher
from gpu_watch import Elsewhere, Notes, row_of, table, train, watched
from harness import leave_undrawn
from PIL import Image
from test_every_method import METHODS, busy, takes_images
from tiny import write_folder

import networks
from dataloaders.augmentation.strong_views import send
from engine.schedules import Form
from networks import BUILDERS, build, ema_update, frozen_copy
from networks.compiling import compiled

SHORT = ("--batch_size", "4", "--labeled_bs", "2", "--labeled_num", "2", "--max_iterations", "2", "--val_every", "2", "--save_every", "2",
         "--log_every", "2", "--deterministic", "2")
SIDES = {"slices": ("32", "32"), "pictures": ("32", "32"), "volumes": ("32", "16", "16")}
EARLY = ("--consistency_start", "0")
BESIDE: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "Supervised, strong": ("Supervised", "slices", ("--augment", "strong")),
    "MeanTeacher, --cache disk": ("MeanTeacher", "slices", (*EARLY, "--cache", "disk")),
    "MeanTeacher, Adam, bf16": ("MeanTeacher", "slices", (*EARLY, "--optimizer", "adam", "--precision", "bf16-mixed")),
    "FixMatch, photographs": ("FixMatch", "pictures", ("--blur", "0.5", "--cutout", "0.5")),
    "UniMatch, photographs": ("UniMatch", "pictures", ()),
    "FixMatchCTA, photographs": ("FixMatchCTA", "pictures", busy("FixMatchCTA")),
    "IIU, pg_fanet": ("IIU", "slices", ("--variant", "published_code")),
    "CDMA, mtnet": ("CDMA", "slices", ("--model", "mtnet")),
    "URPC, volumes": ("URPC", "volumes", ()),
    "CAML, volumes": ("CAML", "volumes", busy("CAML")),
    "UAMT, volumes": ("UAMT", "volumes", ("--teacher_passes", "2")),
    "simEps, volumes": ("simEps", "volumes", ("--model", "vnet", "--num_branches", "2")),
}
"""By name: script, data, options of runs beside the first of each script."""
SIDE_OF = {"pnet": ("16", "16"), "nnunet_2D": ("128", "128"), "nnunet": ("8", "64", "64"), "deeplabv3plus_resnet18": ("33", "33")}
SINGLE = [name for name in (*networks.names(2, False), *networks.names(3, False))
          if not name.endswith(("_32", "_transposed", "resnet50", "resnet101", "_stride8", "_cma"))]
"""Networks of one prediction, a name for each kind; the others are those of methods."""
ALLOWED: dict[tuple[str, str], str] = {
    ("losses/pseudo_labels.py", "likeliest"): "connected components are found on the host (BCP, ABD: published)",
    ("losses/uncertainty.py", ""): "connected components are found on the host (PG-FANet: published)",
    ("dataloaders/augmentation/pairs.py", "Search._all_shown"): "which classes an image shows decides which partner it gets (CISC-R, STI)",
    ("dataloaders/augmentation/copy_paste.py", "cut_in"): "where an image is most salient decides which pixels are copied (STI)",
    ("dataloaders/augmentation/ctaugment.py", "CTAugment.update"): "once an epoch; here an epoch has two steps",
    ("losses/class_weights.py", "RecentDice.shares"): "how well classes are segmented decides which one is asked for (C3PS)",
    ("losses/contrast.py", ""): "how many hard positions there are is the shape of what is contrasted (ReCo)",
    ("losses/correlation.py", ""): "how many vectors a class has is the shape of what is remembered (CAML, PatchCL)",
    ("train_CAML.py", ""): "the same",
    ("engine/stage.py", "Stage.update"): "the gradient of what a mask has chosen, where that is allowed (CAML, PatchCL)",
    ("losses/ambiguity.py", ""): "how many labels are wrong is counted on the host (AC-MT by label errors)",
}
"""Where a step may wait, by file and function ("": anywhere in the file), and why."""
LOGGED = {("engine/monitor.py", f"Monitor.{name}") for name in ("step", "check_finite", "_pseudo_labels")}
"""Where logging does, once in --log_every steps."""
REFUSED: dict[tuple[str, str], str] = {}
"""What CUDA refuses under --deterministic 2, by file and function, and why it stays."""
ROWS: dict[str, dict[str, float]] = {}
BUILT: set[str] = set()


@pytest.fixture(scope="module", autouse=True)
def one_thread_and_narrow_networks(narrow_module: None) -> Iterator[None]:
    """At the end what was counted is written, where that is asked for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    built = networks.build
    with pytest.MonkeyPatch.context() as patch:
        leave_undrawn(patch)
        patch.setattr(networks, "build", lambda name, **arguments: BUILT.add(name) or built(name, **arguments))
        yield
    torch.set_num_threads(threads)
    if os.environ.get("SEMISEG_GPU_TABLE"):
        Path(os.environ["SEMISEG_GPU_TABLE"]).write_text(json.dumps(ROWS, indent=1))


@pytest.fixture(scope="module")
def data(tiny_acdc: Path, volumes: Path, scratch: Path) -> dict[str, tuple[str, ...]]:
    """By kind: the words that name a tiny data set."""
    pictures = write_folder(scratch / "coloured")
    for k, file in enumerate(sorted((pictures / "images").iterdir())):
        grey = np.asarray(Image.open(file))
        Image.fromarray(np.stack([grey, np.roll(grey, k, 0), 255 - grey], 2)).save(file)
    return {"slices": ("--root_path", str(tiny_acdc), "--dataset", "ACDC"),
            "pictures": ("--root_path", str(pictures), "--dataset", "folder"),
            "volumes": ("--root_path", str(volumes), "--dataset", "nnunet")}


def words_of(data: dict[str, tuple[str, ...]], kind: str, *more: str, sides: tuple[str, ...] = ()) -> tuple[str, ...]:
    return (*data[kind], *SHORT, "--patch_size", *(sides or SIDES[kind]), *more)


def check(name: str, notes: Notes) -> None:
    """No mixture anywhere; no wait and nothing refused in a step but what is allowed."""
    ROWS[name] = row_of(notes)
    wrong = notes.lines("mixture")
    for kind, phase, known in (("wait", "step", set(ALLOWED)), ("wait", "logging", LOGGED), ("unordered", "step", set(REFUSED))):
        new = {(file, function) for file, function in notes.places(kind, phase) if not {(file, function), (file, "")} & known}
        wrong += [line for line in notes.lines(kind, phase)
                  if any(line.startswith(f"{file}:") and f" {function}:" in line for file, function in new)]
    assert not wrong, "\n".join(wrong)


# The watch itself


def test_a_wrong_step_of_every_kind_is_seen_and_a_right_one_is_not() -> None:
    with watched() as notes:
        gpu = notes.device
        x = torch.ones(3, 4, device="cuda").requires_grad_()
        (x * torch.tensor(2.0) + 1).sum().backward()
        assert x.grad is not None and x.grad.device == gpu and isinstance(x.grad, Elsewhere) and not notes.events
        held = x.detach()
        for wrong, kind in (
            (lambda: x + torch.ones(3, 4), "mixture"), (lambda: torch.stack([x.sum(), torch.tensor(1.0)]), "mixture"),
            (lambda: bool(x.sum() > 0), "wait"), (lambda: x.sum().item(), "wait"), (lambda: float(x.sum()), "wait"),
            (lambda: x[x > 0], "wait"), (lambda: held.clone().index_put_((x > 0,), held[0, 0]), "wait"),
            (lambda: x.cpu(), "wait"), (lambda: held.tolist(), "wait"), (lambda: x.new_tensor([1.0]), "wait"),
            (lambda: torch.tensor([1.0], device=gpu), "wait"), (lambda: torch.ones(3).to(gpu), "wait"),
            (lambda: torch.ones(3).to("cuda", non_blocking=True), "wait"), (lambda: torch.ones(3).pin_memory().to(gpu), "wait"),
            (lambda: x[torch.tensor([0])], "wait"), (lambda: x.nonzero(), "wait"), (lambda: torch.equal(x, x), "wait"),
            (lambda: torch.bincount(held.long().flatten()), "wait"), (lambda: x.double(), "double"),
            (lambda: torch.nn.functional.nll_loss(x[None, :, None], torch.zeros(1, 1, 4, dtype=torch.int64, device=gpu)), "unordered"),
            (lambda: held.cumsum(0), "unordered"), (lambda: torch.ones(3).pin_memory().to(gpu, non_blocking=True), "upload"),
            (lambda: send(np.zeros(3, np.float32), gpu), "upload"),
        ):
            notes.events.clear()
            wrong()
            assert {event.kind for event in notes.events} == {kind}, (kind, notes.events)
        notes.events.clear()
        for right in (
            lambda: torch.where(held > 0, held, 0.0), lambda: held.clone().masked_fill_(held > 0, 2.0), lambda: held.long().cumsum(0),
            lambda: held.clone().index_put_((held > 0,), torch.tensor(1.0)), lambda: held[torch.zeros(1, dtype=torch.long, device=gpu)],
        ):
            right()
        assert not notes.events, notes.events
        with pytest.raises(TypeError, match="can't convert"):
            held.numpy()
    assert not torch.are_deterministic_algorithms_enabled() and not torch.cuda.is_available() and not torch.backends.mps.is_available()
    with pytest.raises(RuntimeError, match="closed"):
        held + 1


def test_a_step_on_it_is_the_real_one() -> None:
    """Weights of two steps of Mean Teacher without dropout are the CPU's to the bit."""
    def two_steps(device: str) -> list[Any]:
        torch.manual_seed(0)
        student = build("unet", in_channels=1, num_classes=4, dropout=0.0).to(device)
        teacher, images, labels = frozen_copy(student), torch.randn(4, 1, 32, 32).to(device), torch.randint(0, 4, (2, 32, 32)).to(device)
        optimizer = Form("sgd").build([{"params": list(student.parameters())}], 0.01, torch.device("cpu"))
        losses, found = compiled(train_MeanTeacher.losses, "32", False, torch.device(device)), []
        for step in range(2):
            torch.manual_seed(step)
            batch = SimpleNamespace(images=images, labels=labels, n_labeled=2, labeled=images[:2], unlabeled=images[2:])
            terms = losses(student, teacher, batch, 0.1, True, train_MeanTeacher.Method())
            optimizer.zero_grad()
            terms["total"].backward()
            optimizer.step()
            ema_update(teacher, student, step, 0.99)
            found.append(float(terms["total"].detach()))
        return [*found, *(p.detach().cpu().numpy().tobytes() for p in (*student.parameters(), *teacher.parameters()))]

    with watched():
        there = two_steps("cuda")
    here = two_steps("cpu")
    assert there[2:] == here[2:] and there[:2] == pytest.approx(here[:2], rel=1e-6), "a map is summed there, and its loss here"


# What is watched


@pytest.mark.parametrize("method", METHODS)
def test_a_script(method: str, data: dict[str, tuple[str, ...]], tmp_path: Path) -> None:
    kind = "slices" if takes_images(method) else "volumes"
    notes = train(method, words_of(data, kind, *busy(method)), tmp_path)
    assert notes.steps, "its second step was counted"
    check(method, notes)


@pytest.mark.parametrize("name", BESIDE)
def test_a_script_otherwise(name: str, data: dict[str, tuple[str, ...]], tmp_path: Path) -> None:
    method, kind, words = BESIDE[name]
    check(name, train(method, words_of(data, kind, *words), tmp_path))


@pytest.mark.parametrize("name", SINGLE)
def test_a_network(name: str, data: dict[str, tuple[str, ...]], tmp_path: Path) -> None:
    if name == "efficient_unet":
        pytest.importorskip("monai")
    kind = "slices" if name in networks.names(2) else "volumes"
    more = ("--batch_size", "2", "--labeled_bs", "1") if name == "nnunet" else ()
    notes = train("Supervised", words_of(data, kind, "--model", name, *more, sides=SIDE_OF.get(name, ())), tmp_path)
    check(f"Supervised, {name}", notes)


@pytest.mark.parametrize("method, words", [("MeanTeacher", ("--optimizer", "adam", *EARLY)), ("FixMatchCTA", busy("FixMatchCTA"))])
def test_a_run_goes_on(method: str, words: tuple[str, ...], data: dict[str, tuple[str, ...]], tmp_path: Path,
                       capsys: pytest.CaptureFixture[str]) -> None:
    """What comes from a checkpoint lies on the device again."""
    from engine.stage import Stage

    given, after_step = words_of(data, "slices", *words, "--max_iterations", "4"), Stage.after_step

    def stopped(stage: Any, step: int, terms: Any) -> None:
        after_step(stage, step, terms)
        if step == 1:
            raise KeyboardInterrupt

    with mock.patch.object(Stage, "after_step", stopped), pytest.raises(KeyboardInterrupt):
        train(method, given, tmp_path, written=True)
    notes = train(method, given, tmp_path)
    assert "resumed at step 2" in capsys.readouterr().out
    check(f"{method}, gone on with", notes)


@pytest.mark.parametrize("device, kind", [("cuda", "slices"), ("cuda", "volumes"), ("mps", "pictures")])
def test_testers_and_prediction(device: str, kind: str, data: dict[str, tuple[str, ...]], tmp_path: Path,
                                monkeypatch: pytest.MonkeyPatch) -> None:
    """They may wait, for what they write; nothing is mixed, and Apple's device gets no float64."""
    import predict
    import test_2D
    import test_3D

    words = words_of(data, kind, "--max_iterations", "1", *(("--model", "vnet") if kind == "volumes" else ()))
    train("Supervised", words, tmp_path, written=True)
    for name in ("MODEL", "RESULTS"):
        monkeypatch.setenv(f"SEMISEG_{name}", str(tmp_path / name.lower()))
    run = next((tmp_path / "model").rglob("best.pt")).parent
    tester = test_3D if kind == "volumes" else test_2D
    images = {"slices": "data/slices", "pictures": "images", "volumes": "imagesTs"}[kind]
    with watched(device) as notes:
        tester.main(tester.Test(run=run, device=device))  # type: ignore[arg-type]
        with monkeypatch.context() as patch:
            patch.setattr("os.cpu_count", lambda: 1)
            predict.main(predict.Predict(  # overlays of volumes are read again, and figures are not drawn here
                run=run, input=Path(data[kind][1]) / images, output=tmp_path / "said", device=device,  # type: ignore[arg-type]
                save=("masks",) if kind == "volumes" else ("masks", "overlays")))
    ROWS[f"testers, {kind}, {device}"] = row_of(notes)
    assert not notes.lines("mixture") and (device == "cuda" or not notes.lines("double")), notes.lines("mixture") + notes.lines("double")


def test_all_kinds_of_networks_were_watched() -> None:
    if set(METHODS) - set(ROWS) or set(BESIDE) - set(ROWS):
        pytest.skip("not all of this file was run")
    kinds = {name: builder.func if isinstance(builder, partial) else builder for name, builder in BUILDERS.items()}
    seen = {kinds[name] for name in BUILT} | ({kinds["efficient_unet"]} if "efficient_unet" not in BUILT else set())
    assert not [name for name, kind in kinds.items() if kind not in seen]


def test_the_table() -> None:
    rows = {"one": {"waits": 1.0, "mixtures": 0.0}, "two": {"waits": 2.0, "mixtures": 0.0}}
    assert table({"one": {"waits": 3.0, "mixtures": 0.0}}, rows).splitlines() == [
        "| run | waits | mixtures |", "|---|---|---|", "| one | 3 → 1 | 0 |", "| two | 2 | 0 |"]
    assert test_every_method.METHODS == METHODS
