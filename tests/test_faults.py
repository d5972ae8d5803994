"""Bad input: one or two sentences naming file, found, expected and what to do; the right exit code, no traceback, nothing lost."""
from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from harness import Bench, End, outcome, together

from system.ending import finish_with

Harm = Callable[[Path], object]
LABELED, UNLABELED = "data/slices/patient001_frame01_slice_2.h5", "data/slices/patient005_frame01_slice_1.h5"
VAL = "data/patient007_frame01.h5"


def set_in(name: str, key: str, change: Callable[[np.ndarray], np.ndarray | None]) -> Harm:
    """Replaces an array of a file; None takes it out."""
    def harm(root: Path) -> None:
        with h5py.File(root / name, "r+") as h5:
            value = change(h5[key][()])
            del h5[key]
            if value is not None:
                h5[key] = value
    return harm


def with_pixel(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array.flat[5] = value
        return array
    return change


def write(name: str, content: bytes) -> Harm:
    return lambda root: (root / name).write_bytes(content)


def cut(name: str) -> Harm:
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:700])


def add_line(name: str, line: str) -> Harm:
    return lambda root: (root / name).write_text((root / name).read_text() + line + "\n")


def rename_key(root: Path) -> None:
    with h5py.File(root / LABELED, "r+") as h5:
        h5.move("image", "img")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"
GONE = "/nowhere/ACDC"


@dataclass(frozen=True)
class Case:
    """What is done to the data, what is typed, and what must be said."""

    name: str
    harm: Harm | None
    words: tuple[str, ...]
    said: tuple[str, ...]
    code: int = 2


CASES = [
    Case("missing root", None, ("--root_path", GONE), (GONE, "no such folder", "give the folder")),
    Case("root of another layout", lambda root: shutil.rmtree(root / "data"), (), ("layout of no data set", "--dataset")),
    Case("missing h5", lambda root: (root / LABELED).unlink(), (), (LABELED, "no file", "train_slices.list, line 2")),
    Case("missing validation h5", lambda root: (root / VAL).unlink(), (), (VAL, "no file", "val.list, line 1")),
    Case("truncated h5", cut(LABELED), (), (LABELED, "damaged or cut off (700 bytes)", "download it again")),
    Case("truncated unlabelled h5", cut(UNLABELED), (), (UNLABELED, "damaged or cut off", "download it again")),
    Case("git-LFS pointer", write(LABELED, POINTER), (), (LABELED, "git-LFS pointer", "git lfs pull")),
    Case("git-LFS pointer as list", write("train.list", POINTER), (), ("train.list", "git-LFS pointer", "git lfs pull")),
    Case("web page", write(VAL, b"<!DOCTYPE html><html>log in</html>"), (), (VAL, "web page", "download it again")),
    Case("wrong key", rename_key, (), (LABELED, "no dataset 'image'", "found: img, label")),
    Case("labelled without label", set_in(LABELED, "label", lambda a: None), (), (LABELED, "no dataset 'label'", "found: image")),
    Case("different shapes", set_in(LABELED, "label", lambda a: a[:-4]), (), (LABELED, "(48, 40)", "(44, 40)", "must be the same")),
    Case("different shapes in validation", set_in(VAL, "label", lambda a: a[:2]), (), (VAL, "(3, 48, 40)", "(2, 48, 40)")),
    Case("label out of range", set_in(LABELED, "label", with_pixel(9)), (), (LABELED, "label value 9 in 1 pixels", "0 to 3")),
    Case("label out of range in validation", set_in(VAL, "label", with_pixel(4)), (), (VAL, "label value 4", "left ventricle")),
    Case("fractional label", set_in(LABELED, "label", lambda a: a + np.float32(0.5)), (), (LABELED, "0.5", "no whole number")),
    Case("mask 0/255", set_in(LABELED, "label", lambda a: (a > 0) * np.uint8(255)), (), (LABELED, "255", "divide it by 255")),
    Case("NaN pixels", set_in(LABELED, "image", with_pixel(np.nan)), (), (LABELED, "1 of 1920 pixels", "NaN", "leave it out")),
    Case("NaN in an unlabelled case", set_in(UNLABELED, "image", with_pixel(np.inf)), (), (UNLABELED, "infinite", "leave it out")),
    Case("NaN in validation", set_in(VAL, "image", with_pixel(np.nan)), (), (VAL, "NaN")),
    Case("empty list", write("train.list", b"\n# nothing\n"), (), ("train.list", "empty", "one name a line")),
    Case("list that leaves the folder", add_line("val.list", "../../secret"), (), ("val.list, line 3", "../../secret", "leads out")),
    Case("list with an absolute path", add_line("train.list", "/etc/passwd"), (), ("train.list, line 7", "/etc/passwd", "bare name")),
    Case("entry twice", add_line("train.list", "patient001_frame01"), (), ("train.list, line 7", "line 1 already", "remove")),
    Case("patient in two parts", add_line("val.list", "patient001_frame02"), (), ("val.list, line 3", "patient001", "one part only")),
    Case("budget 0.1", None, ("--labeled_num", "0.1"), ("--labeled_num 0.1", "write 10%")),
    Case("budget seven", None, ("--labeled_num", "seven"), ("--labeled_num seven", "not a label budget", "10%")),
    Case("budget 0", None, ("--labeled_num", "0"), ("--labeled_num 0", "at least 1")),
    Case("budget too large", None, ("--labeled_num", "99"), ("--labeled_num 99", "6 patients available", "asked 99")),
    Case("nothing unlabelled", None, ("--labeled_num", "all"), ("no unlabelled cases", "train_Supervised.py")),
    Case("no unlabelled rows", None, ("--labeled_bs", "4"), ("--labeled_bs", "smaller than --batch_size")),
    Case("unknown option", None, ("--labelled_num", "7"), ("no option --labelled_num", "Did you mean --labeled_num")),
    Case("old option num_classes", None, ("--num_classes", "4"), ("--num_classes has no meaning here", "comes from the data set")),
    Case("old option gpu", None, ("--gpu", "0"), ("--gpu has no meaning here", "CUDA_VISIBLE_DEVICES")),
    Case("unknown data set", None, ("--dataset", "ADCD"), ("--dataset ADCD", "ACDC")),
    Case("unknown network", None, ("--model", "unett"), ("--model unett", "unet_transposed")),
    Case("patch of 33", None, ("--patch_size", "33", "40"), ("--patch_size 33 40", "multiples of 16", "32 32")),
    Case("patch of three sides", None, ("--patch_size", "32", "32", "32"), ("--patch_size 32 32 32", "2 positive sides")),
    Case("several values", None, ("--max_iterations", "0", "--base_lr", "-1"), ("--max_iterations 0", "--base_lr -1")),
    Case("not a number", None, ("--batch_size", "many"), ("--batch", "many")),
    Case("not a choice", None, ("--schedule", "linear"), ("schedule", "poly")),
    Case("out of model/", None, ("--exp", "../../run"), ("--exp ../../run", "may not leave")),
    Case("fold that is not", None, ("--fold", "5"), ("--fold 5", "0 to 4")),
]
if not torch.cuda.is_available():
    CASES.append(Case("no GPU", None, ("--device", "cuda"), ("--device cuda", "no GPU", "--device cpu")))


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def faults_of(bench: Bench, case: Case) -> list[str]:
    """What is wrong with the program's answer to a case."""
    data = bench.data
    if case.harm is not None:
        data = bench.folder / case.name.replace("/", " ") / "ACDC"
        shutil.copytree(bench.data, data)
        case.harm(data)
    before = snapshot(data)
    end = bench.train("MeanTeacher", *case.words, data=data, model=f"model of {case.name.replace('/', ' ')}")
    wrong = [] if end.code == case.code else [f"exit code {end.code}, expected {case.code}"]
    wrong += [f"not said: {words!r}" for words in case.said if words not in end.err.replace("\\", "/")]
    wrong += ["a traceback"] if "Traceback" in end.err + end.out else []
    wrong += ["the data were touched"] if snapshot(data) != before else []
    wrong += ["a checkpoint was written"] if list(bench.folder.glob(f"model of {case.name}/**/*.pt")) else []
    return [f"{case.name}: {problem}\n{end.err}" for problem in wrong]


@pytest.mark.parametrize("part", range(3))
def test_bad_input(bench: Bench, part: int) -> None:
    """A third of the table, two cases at a time."""
    wrong = together([partial(faults_of, bench, case) for case in CASES[part::3]])
    assert not any(wrong), "\n".join(line for lines in wrong for line in lines)


def test_all_broken_files_are_told_at_once(bench: Bench) -> None:
    """Missing, cut off, poisoned; labelled, unlabelled and validation; the good ones are not named."""
    data = bench.folder / "ACDC"
    shutil.copytree(bench.data, data)
    (data / "data/slices/patient003_frame01_slice_1.h5").unlink()
    broken = [LABELED, UNLABELED, "data/slices/patient006_frame01_slice_3.h5", VAL, "data/slices/patient003_frame01_slice_1.h5"]
    cut(LABELED)(data)
    write(UNLABELED, POINTER)(data)
    set_in(broken[2], "image", with_pixel(np.nan))(data)
    set_in(VAL, "label", with_pixel(9))(data)
    end = bench.train("MeanTeacher", data=data)
    assert end.code == 2 and "Traceback" not in end.err, end
    assert "5 problems" in end.err and all(name in end.err for name in broken), end.err
    assert "patient002" not in end.err and "patient008" not in end.err
    shutil.rmtree(data)
    shutil.copytree(bench.data, data)
    end = bench.train("MeanTeacher", data=data)
    assert end.code == 0, "after mending the data the same command runs"


@pytest.mark.parametrize("bad", ["images/piece 3.png", "masks/piece 2.png"])
def test_own_pictures_that_cannot_be_read(bench: Bench, tiny_folder: Path, bad: str) -> None:
    data = bench.folder / "own"
    shutil.copytree(tiny_folder, data)
    write(bad, (data / bad).read_bytes()[:60])(data)
    end = bench.train("MeanTeacher", data=data)
    assert end.code == 2 and bad in end.err and "Traceback" not in end.err, end


def test_own_pictures_train(bench: Bench, tiny_folder: Path) -> None:
    end = bench.train("MeanTeacher", data=tiny_folder)
    assert end.code == 0 and end.err == "", end


def accepted(text: bytes) -> bytes:
    """The same names as people's editors leave them."""
    lines = text.decode().split()
    return ("\ufeff# the cases\r\n\r\n" + "\r\n".join(f"  {line} \t" for line in lines[:2]) + "\r\n\r\n" + "\r\n".join(lines[2:])).encode()


def test_lists_as_editors_leave_them(bench: Bench) -> None:
    """Byte-order mark, CRLF, blanks, comments and no last line end: the same run, to the bit."""
    data = bench.folder / "ACDC"
    shutil.copytree(bench.data, data)
    assert bench.train("MeanTeacher", data=data, model="plain").code == 0
    for name in ("train.list", "train_slices.list", "val.list"):
        (data / name).write_bytes(accepted((data / name).read_bytes()))
    end = bench.train("MeanTeacher", data=data, model="edited")
    assert end.code == 0, end
    assert outcome(bench.run_folder("plain")) == outcome(bench.run_folder("edited"))


def test_names_of_any_alphabet(bench: Bench) -> None:
    """Umlauts, Chinese, spaces and quotes in names of cases, folders and experiments."""
    data = bench.folder / "Daten für 心脏 'x'" / "ACDC"
    shutil.copytree(bench.data, data)
    renamed = {"patient001": "Müller Ä", "patient004": "患者四", "patient007": "it's (7)"}
    for old, new in renamed.items():
        for file in list((data / "data").rglob(f"{old}*")):
            file.rename(file.with_name(file.name.replace(old, new)))
        for name in ("train.list", "train_slices.list", "val.list"):
            (data / name).write_text((data / name).read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    for language in ("C.UTF-8", "C"):
        end = bench.train("MeanTeacher", "--exp", "Versuch Ä 一", data=data, model=f"model {language}", LC_ALL=language)
        assert end.code == 0, end
    assert "Müller Ä_frame01" in (bench.run_folder("model C") / "config.json").read_text(encoding="utf-8")


# Machines


def unprivileged() -> None:
    """Takes root's right to write anywhere; elsewhere there is nothing to take. (Another uid might not read Python itself.)"""
    if os.getuid() == 0:
        version_and_self, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        assert ctypes.CDLL(None).capset(version_and_self, none) == 0


def is_refused(end: End, *said: str) -> None:
    assert end.code == 2 and "Traceback" not in end.err, end
    assert all(words in end.err for words in said), end.err


def test_read_only_folder(bench: Bench) -> None:
    """Where a run would begin; and where one lies that has begun."""
    model = bench.folder / "model"
    model.mkdir()
    model.chmod(0o555)
    is_refused(bench.train("Supervised", before=unprivileged), str(model), "cannot be made", "ermission")
    assert list(model.iterdir()) == []
    model.chmod(0o755)
    assert bench.train("Supervised", fault="kill@step:5").code == -9
    before = snapshot(model)
    for path in (model, *model.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    is_refused(bench.train("Supervised", before=unprivileged), str(bench.run_folder()), "cannot be written", "--exp")
    assert snapshot(model) == before
    for path in (model, *model.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    end = bench.train("Supervised")
    assert end.code == 0 and "resumed at step 3" in end.out, end


@pytest.mark.parametrize("number, words", [
    (errno.EROFS, "out/r.json: cannot be written (Read-only"), (errno.EACCES, "out/r.json: cannot be written (Permission"),
    (errno.ENOTDIR, "a file lies in its place"), (errno.EEXIST, "a file lies in its place"), (errno.ENOSPC, "The disk is full")])
def test_places_that_cannot_be_written_get_a_sentence(number: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    def write() -> None:
        raise OSError(number, os.strerror(number), "out/r.json")

    assert finish_with(write) == 2
    said = capsys.readouterr().err
    assert words in said and "Traceback" not in said


def small_files(limit: int) -> None:
    """Files of this process can grow to `limit` bytes, as on a full disk or under a quota."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))


@pytest.mark.parametrize("limit", [1000, 2**18], ids=["at once", "at the first checkpoint"])
def test_full_disk_before_the_first_step(bench: Bench, limit: int) -> None:
    """Nothing can be written; or small files can, and the first checkpoint cannot."""
    end = bench.train("Supervised", before=partial(small_files, limit))
    is_refused(end, "Make room")
    assert not list(bench.folder.rglob("*.pt")) and not list(bench.folder.rglob("*.tmp-*"))
    assert bench.train("Supervised").code == 0


@pytest.mark.parametrize("limit", [640 * 2**10, 768 * 2**10])
def test_full_disk_later(bench: Bench, limit: int) -> None:
    """The first checkpoint (0.5 MB) has room; the next one, with momentum (1 MB), has not. Made room, the run ends as a clean one."""
    assert bench.train("Supervised", model="whole").code == 0
    end = bench.train("Supervised", before=partial(small_files, limit))
    assert end.code == 3 and "Traceback" not in end.err, end
    assert all(words in end.err for words in ("disk is full", "Make room", "last.pt", "same command")), end.err
    assert not list(bench.folder.rglob("*.tmp-*"))
    end = bench.train("Supervised")
    assert end.code == 0 and "resumed at step 0" in end.out, end
    assert outcome(bench.run_folder()) == outcome(bench.run_folder("whole"))
