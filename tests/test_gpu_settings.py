"""What is set, refused and arranged for a GPU: devices, precision, --fast, what compilers keep, blocks of validation, copies in one go."""
from __future__ import annotations

import os
import stat
import threading
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import train_Supervised
from gpu_watch import pinned, watched
from torch import nn

from command_line.options import FAST, parse
from dataloaders import catalog
from dataloaders.batches.loader import Loader
from dataloaders.batches.store import build_store
from dataloaders.errors import UserError
from engine import saving
from engine.claim import run_name
from engine.monitor import PICTURES, Loop, Monitor
from inference import Cases, inference_of, predicted
from inference.cases import BLOCK
from losses.overlap import summed_errors
from storage.provenance import machine
from system import devices, distributed
from system.devices import check_precision, choose_device, keep_compiled, set_determinism

WORDS = ("--max_iterations", "2", "--device", "cpu")


def test_fast_is_a_set_of_defaults_that_the_command_line_overrules_and_a_name_of_its_own(tiny_acdc: Path) -> None:
    given = ("--root_path", str(tiny_acdc), "--dataset", "ACDC", *WORDS)
    plain, fast, calm = (parse(train_Supervised.Method, train_Supervised.PRESETS, [*given, *more]) for more in (
        (), ("--fast",), ("--fast", "--deterministic", "1", "--precision", "32")))
    assert {name: getattr(fast, name) for name in FAST} == FAST == {"precision": "bf16-mixed", "compile": True, "deterministic": 0}
    assert (calm.precision, calm.compile, calm.deterministic) == ("32", True, 1)
    names = [str(run_name(options, "official")) for options in (plain, fast, calm)]
    assert "fast" not in names[0] and "fast=True" in names[1] and "precision" not in names[1] and "precision=32" in names[2]


def test_cards_without_bfloat16_and_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda")
    with watched():
        check_precision("bf16-mixed", gpu)
        monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation=True: including_emulation)
        check_precision("32", gpu)
        with pytest.raises(UserError, match=r"a GPU that is none \(compute capability 9.0\) does not compute in bfloat16.*--precision 32"):
            check_precision("bf16-mixed", gpu)
        assert choose_device("auto").type == choose_device("cuda").type == "cuda"
    check_precision("bf16-mixed", torch.device("cpu"))
    for wanted in ("cuda", "mps"):
        with pytest.raises(UserError, match=f"--device {wanted}: torch sees no .*GPU here.*--device cpu"):
            choose_device(wanted)
    with watched("mps"):
        assert choose_device("mps").type == "mps" and choose_device("auto").type == choose_device("cpu").type == "cpu"
        assert devices.peak_memory(torch.device("mps")) > 0
        monkeypatch.setattr("system.devices.world", lambda: 2)
        with pytest.raises(UserError, match="serves one process, and 2 were started"):
            choose_device("mps")


def test_how_a_gpu_multiplies_is_set_and_recorded() -> None:
    for fast in (False, True):
        with watched() as notes:
            set_determinism(1, notes.device, fast)
            assert torch.backends.cudnn.allow_tf32 and torch.get_float32_matmul_precision() == ("high" if fast else "highest")
            found = machine(notes.device)
            assert found["device"] == "a GPU that is none" and found["tf32"] == {"convolutions": True, "matrix products": fast}
    assert torch.get_float32_matmul_precision() == "highest" and "tf32" not in machine(torch.device("cpu"))


def test_what_compilers_keep_lies_in_a_folder_of_this_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    folder = tmp_path / "cache" / "compiled"
    assert keep_compiled(folder) and os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert keep_compiled(tmp_path / "other") and not (tmp_path / "other").exists(), "what the environment names stays"
    for mode in (0o777, 0o720):
        monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
        folder.chmod(mode)
        assert not keep_compiled(folder) and "TORCHINDUCTOR_CACHE_DIR" not in os.environ, "others could put code there"
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR")
    (tmp_path / "file").write_text("")
    assert not keep_compiled(tmp_path / "file" / "compiled")


def test_exchanges_between_gpus_have_a_limit_of_their_own() -> None:
    limits: dict[str, timedelta] = {}
    group = SimpleNamespace(_get_backend=lambda device: SimpleNamespace(
        _set_default_timeout=lambda limit: limits.update({device.type: limit})))
    distributed.limit_exchanges(group)
    assert limits == {"cuda": distributed.LONGEST_EXCHANGE} and distributed.LONGEST_EXCHANGE < distributed.LONGEST_WAIT


def test_the_summed_cross_entropy_of_a_gpu_has_the_gradients_of_the_cpu() -> None:
    logits, labels, weights = torch.randn(2, 3, 5, 7), torch.randint(0, 3, (2, 5, 7)), torch.tensor([0.5, 1.0, 2.0])
    labels[0, 0] = 255
    found = []
    for device in ("cpu", "cuda"):
        for v in (None, weights):
            with watched() as notes:
                z = logits.clone().to(device).requires_grad_()
                summed = summed_errors(z, labels.to(device), None if v is None else v.to(device))
                summed.backward()
                assert z.grad is not None and not notes.lines("unordered")
                found.append((float(summed.detach()), z.grad.cpu()))
    for one, other in zip(found[:2], found[2:]):
        assert one[0] == pytest.approx(other[0], rel=1e-6) and torch.equal(one[1], other[1])


def test_copies_come_from_a_gpu_in_one_piece_for_each_type() -> None:
    tree = {"a": torch.randn(3, 2), "b": [torch.arange(4), (torch.tensor(2.5), "word")], "c": {"d": torch.randn(1, 2, 3, 3), "e": 7}}
    tree["again"] = tree["a"]
    with watched() as notes:
        there = {key: ([value[0].to("cuda"), (value[1][0].to("cuda"), value[1][1])] if key == "b" else
                       {"d": value["d"].to("cuda", memory_format=torch.channels_last), "e": 7} if key == "c" else value.to("cuda"))
                 for key, value in tree.items()}  # type: ignore[union-attr, call-overload]
        notes.events.clear()
        back = saving.on_host(there)
        assert notes.count("wait") == 2 and not notes.lines("mixture")
    for found in (back, saving.on_host(tree)):
        assert all(type(one) is torch.Tensor for one in saving.tensors_in(found))
        assert [one.tolist() for one in saving.tensors_in(found)] == [one.tolist() for one in saving.tensors_in(tree)]
        assert found["b"][1][1] == "word" and found["c"]["e"] == 7 and found["a"] is not tree["a"]


def test_validation_on_a_gpu_predicts_blocks_of_slices(tiny_acdc: Path) -> None:
    """The same label maps, in batches of one size, with one wait for the maps and one for the flag."""
    source = catalog.open_source(catalog.named("ACDC"), tiny_acdc)
    cases, network = source.cases("val"), nn.Conv2d(1, 4, 3, padding=1)

    def said(device: str, predictor: Any) -> list[np.ndarray]:
        inference = inference_of(source.data, (32, 32), None, torch.device(device), batch=4)
        streamed = Cases(source, cases, inference)
        streamed.check("validation cases")
        return [maps for _, maps in predicted(predictor, list(streamed), inference)]

    expected, sizes = said("cpu", network), list[int]()
    with watched() as notes:
        there = nn.Conv2d(1, 4, 3, padding=1).to("cuda")
        there.load_state_dict(network.state_dict())
        notes.events.clear()
        found = said("cuda", lambda images: sizes.append(len(images)) or there(images))
        assert len(cases) == 2 and notes.count("wait") - len(cases) == 2, notes.lines("wait")  # and one for each case's pixels, read once
    assert sizes == [4, 4] and sum(map(len, found)) == 6 and BLOCK % 4 == 0
    assert all(np.array_equal(one, other) for one, other in zip(expected, found))


@pytest.mark.parametrize("iterations, val_every", [(30000, 200), (100, 10), (7, 3), (4000, 25)])
def test_a_run_has_few_pictures_and_one_of_its_end(iterations: int, val_every: int) -> None:
    monitor = Monitor(None, catalog.named("ACDC"))  # type: ignore[arg-type]
    monitor.loop = Loop("", iterations, 0, 0.0)
    validations = [*range(val_every, iterations, val_every), iterations]
    shown = [done for done in validations if monitor.wants_picture(done, val_every)]
    assert min(len(validations), PICTURES // 2) <= len(shown) <= PICTURES + 1 and shown[-1] == iterations


def test_batches_of_the_host_are_pinned_in_the_loader_s_thread(tiny_acdc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels go as bytes and come as int64; the training thread copies nothing itself."""
    source = catalog.open_source(catalog.named("ACDC"), tiny_acdc)
    items, where = source.items(source.cases("train")), list[tuple[str, torch.dtype]]()
    store = build_store(source, items, [True] * len(items), "ram", progress=False)
    with watched() as notes:
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda x: where.append((threading.current_thread().name, x.dtype)) or pinned(x))
        loader = Loader(store, range(9), range(9, 18), batch_size=4, labeled_bs=2, patch_size=(32, 32), recipe="rot_flip", seed=1,
                        device="cuda", threads=1)
        there = [(batch.images.cpu(), batch.labels.cpu()) for _, batch in loader.batches(0, 2)]
        loader.close()
        assert notes.count("upload") == 4 and not notes.lines("mixture")
    assert where == [("loader", torch.float32), ("loader", torch.uint8)] * 2
    here = Loader(store, range(9), range(9, 18), batch_size=4, labeled_bs=2, patch_size=(32, 32), recipe="rot_flip", seed=1, threads=1)
    for (images, labels), (_, batch) in zip(there, here.batches(0, 2)):
        assert labels.dtype == torch.int64 and torch.equal(images, batch.images) and torch.equal(labels, batch.labels)
    here.close()
