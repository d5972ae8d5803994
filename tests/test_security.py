"""What docs/security.md promises: nothing that is read runs code, or leads out of its folder, or unpacks without end."""
from __future__ import annotations

import gzip
import io
import os
import pickle
import re
import zipfile
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import save_volume, write_folder

from dataloaders.batches.store import read_written
from dataloaders.catalog import named, open_source
from dataloaders.errors import UserError
from dataloaders.layouts import nifti
from dataloaders.layouts.common import H5, open_picture, read_list
from dataloaders.layouts.nnunet import read_description
from evaluation.export import file_name
from prediction.record import cell
from storage import checkpoint
from storage.weight_files import read as read_weights

ROOT = Path(__file__).resolve().parents[1]


class Evil:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.mark),)


def hostile(file: Path, mark: Path, form: str) -> Path:
    """A file that carries `Evil`, as torch saves it now, as it did once, as a bare pickle, or in an array of NumPy."""
    if form == "numpy":
        np.save(file.with_suffix(".npy"), np.array([Evil(mark)], object), allow_pickle=True)
        return file.with_suffix(".npy")
    content = io.BytesIO()
    if form == "pickle":
        pickle.dump(Evil(mark), content)
    else:
        torch.save({"format": 1, "state_dict": Evil(mark)}, content, _use_new_zipfile_serialization=form == "zip")
    file.write_bytes(content.getvalue())
    return file


@pytest.mark.parametrize("form", ["zip", "old", "pickle"])
def test_weights_and_checkpoints_run_nothing(tmp_path: Path, form: str) -> None:
    file, mark = hostile(tmp_path / "last.pt", tmp_path / "mark", form), tmp_path / "mark"
    with pytest.raises(UserError):
        read_weights(file, "last.pt")
    with pytest.raises(checkpoint.Damaged):
        checkpoint.load(file)
    checkpoint.write_json(checkpoint.sidecar(file), {"new": checkpoint.hashlib.sha256(file.read_bytes()).hexdigest()})
    with pytest.raises(checkpoint.Damaged, match="carries code"):
        checkpoint.load(file)
    assert not mark.exists()
    if form == "pickle":
        pickle.loads(file.read_bytes())
    else:
        torch.load(file, weights_only=False)
    assert mark.exists(), "the file would have done it"


def test_maps_that_a_stage_wrote_run_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_written(hostile(tmp_path / "a", tmp_path / "mark", "numpy"))
    assert not (tmp_path / "mark").exists()


def test_a_packed_pickle_of_any_length_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "MOST_PICKLE", 1000)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\0" * 100_000)
    monkeypatch.setattr(zipfile.ZipFile, "read", lambda *_: pytest.fail("unpacked"))
    assert not checkpoint._carries_code(content.getvalue())


def test_h5_files_lead_nowhere(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["image"] = np.ones((2, 3, 4), np.float32)
        file["spacing"] = np.ones(3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = h5py.ExternalLink("secret.h5", "image")
        file["spacing"] = h5py.ExternalLink("secret.h5", "spacing")
        file["soft"] = h5py.SoftLink("/image")
    with H5(tmp_path / "a.h5") as opened:
        for key in ("image", "soft"):
            with pytest.raises(UserError, match="is a link to elsewhere"):
                opened.read(key, (3,))
        with pytest.raises(UserError, match="is a link to elsewhere"):
            opened.values("spacing", 1)
        assert opened.values("affine", 2) is None


def test_a_foreign_filter_gets_a_sentence(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        space = h5py.h5s.create_simple((4, 4))
        wanted = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        wanted.set_chunk((4, 4))
        wanted.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (1, 2))
        made = h5py.h5d.create(file.id, b"image", h5py.h5t.IEEE_F32LE, space, wanted)
        made.write_direct_chunk((0, 0), np.ones((4, 4), np.float32).tobytes())
    with H5(tmp_path / "a.h5") as opened, pytest.raises(UserError, match=r"filter that is not here \(number 32001\).*gzip"):
        opened.read("image", (2,))


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "C:\\x", "..\\..\\x", "a\0b"])
def test_lists_lead_nowhere(tmp_path: Path, name: str) -> None:
    (tmp_path / "train.list").write_text(name + "\n")
    with pytest.raises(UserError, match="leads out of"):
        read_list(tmp_path / "train.list")


@pytest.mark.parametrize("kind", ["list", "description", "volume", "h5", "picture", "groups"])
def test_devices_and_pipes_are_not_read(tmp_path: Path, kind: str) -> None:
    names = {"volume": "a.nii.gz", "h5": "a.h5", "picture": "a.png", "groups": "groups.csv"}
    file = tmp_path / names.get(kind, "a.txt")
    os.mkfifo(file)
    with pytest.raises(UserError, match="no regular file"):
        if kind == "groups":
            write_folder(tmp_path)
            open_source(named("folder"), tmp_path)
        {"list": read_list, "description": read_description, "volume": nifti.read_volume, "h5": H5, "picture": open_picture,
         "groups": str}[kind](file)


def test_texts_without_end_are_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "train.list", "wb") as file:
        file.truncate(2**40)
    for read in (read_list, read_description):
        with pytest.raises(UserError, match="is not read"):
            read(tmp_path / "train.list")
    (tmp_path / "deep.json").write_text("[" * 200_000)
    with pytest.raises(UserError, match="no valid JSON"):
        read_description(tmp_path / "deep.json")


def test_a_volume_behind_which_no_end_comes_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nifti, "MOST_BEHIND", 2**20)
    save_volume(tmp_path / "a.nii", np.ones((3, 4, 5), np.uint8))
    content = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(content + bytes(2**22)))
    with pytest.raises(UserError, match="stand behind its voxels"):
        nifti.read_volume(tmp_path / "a.nii.gz")
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content + bytes(1000)))
    assert nifti.read_volume(tmp_path / "b.nii.gz")[0].shape == (3, 4, 5)


def test_a_volume_that_claims_too_much_is_refused_before_memory_is_asked_for(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape((30000, 30000, 30000))
    header["vox_offset"], header["magic"] = 352, b"n+1"
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(8))
    with pytest.raises(UserError, match="claims the shape"):
        nifti.read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("kind", ["EPS", "PDF", "PSD", "TGA", "SGI", "ICO"])
def test_pictures_are_read_by_known_readers_alone(tmp_path: Path, kind: str) -> None:
    """Pillow hands EPS to Ghostscript, a program of its own."""
    file = tmp_path / "a.png"
    if kind == "PSD":
        file.write_bytes(b"8BPS\0\1" + bytes(100))
    else:
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(file, kind)
    with pytest.raises(UserError, match=r"a\.png: "):
        open_picture(file)


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_no_cell_of_a_table_is_a_formula(name: str) -> None:
    assert cell(name)[0] not in "=+-@\t\r"


@pytest.mark.parametrize("name", ["../../x", "..\\..\\x", "/etc/passwd", "a//b", ".."])
def test_names_of_cases_make_files_in_one_folder(name: str) -> None:
    made = f"{file_name(name)}_pred.png"
    assert "\\" not in made and Path(made).name == made


def test_the_program_unpickles_and_evaluates_nothing() -> None:
    """What could run code of a file stands nowhere: no `pickle.load`, `eval`, shell or unpacked archive, no `torch.load` but the safe."""
    wrong = []
    for path in sorted((ROOT / "code").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for call in re.findall(r"(?:torch|np|numpy)\.load\([^\n]*", text):
            if "weights_only=True" not in call and "allow_pickle=False" not in call:
                wrong.append(f"{path.name}: {call}")
        wrong += [f"{path.name}: {call}" for call in re.findall(
            r"pickle\.loads?\(|(?<![.\w])(?:eval|exec)\(|os\.system\(|shell=True|\.extractall\(|unpack_archive\(|Unpickler", text)]
    assert not wrong, wrong
