"""What tells that a file is not as it was written: digests in JSON, SHA256SUMS beside data, checksums in PNG, size and time of data."""
from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from campaigns.harm import field, letter
from harness import Bench
from PIL import Image
from tiny import write_acdc, write_folder

from dataloaders.batches.store import build_store
from dataloaders.catalog import named, open_source
from dataloaders.errors import UserError
from dataloaders.layouts.common import read_mask, read_picture
from pictures.curves import read_curves
from storage.checkpoint import write_json
from storage.sealed import parsed, read_sealed, sealed

VALUE = {"state": "done", "scores": [0.1 + 0.2, 1e-300, None, -0.0], "nested": {"b": 1, "a": "\udcff ü"}, "5": True}


def test_a_sealed_value_comes_back_and_any_other_does_not(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    write_json(file, sealed(VALUE))
    assert read_sealed(file, "") == VALUE and parsed(json.dumps(sealed(VALUE), indent=3, sort_keys=True)) == VALUE
    content = file.read_bytes()
    for k in range(60):
        harm = (letter, field)[k % 2]
        file.write_bytes(harm(content, random.Random(k)))
        try:
            assert read_sealed(file, "Do this.") == VALUE
        except UserError as error:
            assert "x.json: " in str(error) and str(error).endswith("Do this.") and error.code == 4


def test_a_file_without_a_digest_is_taken_as_it_is_and_what_is_no_mapping_is_refused(tmp_path: Path) -> None:
    assert parsed('{"a": 1}') == {"a": 1}
    for text, words in (("[1]", "a list lies in it"), ("{", "no readable JSON"), ("[" * 100_000, "no readable JSON"),
                        ('{"a": 1, "sha256": 5}', 'take out the line "sha256"')):
        with pytest.raises(ValueError, match=words):
            parsed(text)


def test_files_are_those_of_sha256sums(tmp_path: Path) -> None:
    root = write_acdc(tmp_path / "ACDC")
    names = [path.relative_to(root).as_posix() for path in sorted(root.rglob("*")) if path.is_file()]
    sums = [f"{hashlib.sha256((root / name).read_bytes()).hexdigest()}  ./{name}\n" for name in names[:-1]]
    (root / "SHA256SUMS").write_text("".join(sums))
    source = open_source(named("ACDC"), root)
    item = source.items(source.cases("train"))[0]
    before = source.image(item)
    content = bytearray(item.image.read_bytes())
    place = content.index(before.tobytes()[:64])
    content[place + 7] ^= 1
    os.replace(shutil.copy(item.image, tmp_path / "aside"), item.image)
    assert np.array_equal(source.image(item), before), "another file of the same bytes"
    item.image.write_bytes(content)
    with pytest.raises(UserError, match=f"{item.image.name}: not the file of which .*SHA256SUMS has the SHA-256"):
        source.image(item)
    (root / "train.list").write_text("patient001_frame01\n")
    with pytest.raises(UserError, match="train.list: not the file of which"):
        open_source(named("ACDC"), root).cases("train")
    (root / "SHA256SUMS").write_text("abc  x\n")
    with pytest.raises(UserError, match="is no digest and name"):
        open_source(named("ACDC"), root).cases("train")


def test_checksums_are_no_file_that_is_passed_over(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "own")
    (root / "images" / "SHA256SUMS").write_text("")
    assert not any("passed over" in remark for remark in open_source(named("folder"), root).remarks)


@pytest.mark.parametrize("colours", ["L", "RGB"])
def test_a_bit_of_a_png_is_noticed(tmp_path: Path, colours: str) -> None:
    """Pillow compares no checksum of pixels; every byte behind the signature is of some part."""
    file = tmp_path / "a.png"
    pixels = np.random.default_rng(0).integers(0, 3, (9, 7, 3), np.uint8)
    Image.fromarray(pixels if colours == "RGB" else pixels[..., 0]).save(file, compress_level=0)
    content = file.read_bytes()
    reads = (partial(read_picture, channels=None), read_mask) if colours == "L" else (partial(read_picture, channels=None),)
    for read in reads:
        read(file)
        for place in range(8, len(content) - 4, 5):
            file.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
            with pytest.raises(UserError, match="a.png"):
                read(file)
        file.write_bytes(content + b"what follows is no part of it")
        read(file)
        file.write_bytes(content)


def test_a_damaged_cache_is_made_again(tmp_path: Path, tiny_acdc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEMISEG_CACHE", str(tmp_path / "cache"))
    source = open_source(named("ACDC"), tiny_acdc)
    items = source.items(source.cases("train"))

    def built() -> bytes:
        return np.array(build_store(source, items, [False] * len(items), progress=False).pixels).tobytes()

    expected = built()
    (values,) = (tmp_path / "cache").glob("*.bin")
    for place in (64, len(expected)):
        content = bytearray(values.read_bytes())
        content[place] ^= 1
        values.write_bytes(content)
        assert built() == expected
        assert values.read_bytes() != content


def test_lines_of_no_run_are_left_out_of_curves(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    lines = ['{"step": 2, "kind": "train", "total": 1.5, "odd": "x"}', '{"step": 4, "kind": "validation/network"}', '{"step": "4"}', "[1]",
             '{"st']
    file.write_text("\n".join(lines))
    assert read_curves(file) == ({"total": [(2, 1.5)]}, {"network": [(4, 0.0)]}, {})


def copied(bench: Bench) -> Path:
    return Path(shutil.copytree(bench.data, bench.folder / "data" / "ACDC"))


def test_data_that_change_under_a_run_are_named(bench: Bench) -> None:
    data = copied(bench)
    names = [f"data/slices/patient00{k}_frame01_slice_1.h5" for k in (1, 3)] + ["data/patient007_frame01.h5"]
    assert bench.train("MeanTeacher", data=data, fault="kill@step:5").code == -9
    (data / names[0]).write_bytes((data / names[0]).read_bytes() + b"x")
    for name in names[1:]:
        os.utime(data / name, (1, 1))
    end = bench.train("MeanTeacher", data=data)
    assert end.code == 2 and "the data set is not the one with which this run began" in end.err and "--accept_changes" in end.err, end
    assert all(name in end.err for name in names) and "bytes then" in end.err and "1970" in end.err and end.err.count("  - ") == 3
    end = bench.train("MeanTeacher", "--accept_changes", data=data, fault="kill@step:2")
    assert end.code == -9 and "resumed at step 3" in end.out
    end = bench.train("MeanTeacher", data=data)
    assert end.code == 0, "what was accepted is not asked again"
    said = json.loads((bench.run_folder() / "config.json").read_text())["changes"]
    assert len(said) == 3 and all(any(name in line for line in said) for name in names)


def test_copies_of_the_same_time_are_told_and_before_the_first_step_nothing_is_asked(bench: Bench) -> None:
    data = copied(bench)
    file = data / "data" / "slices" / "patient001_frame01_slice_1.h5"
    assert bench.train("Supervised", data=data, fault="kill@step:1").code == -9
    os.utime(file, (1, 1))
    assert bench.train("Supervised", data=data, fault="kill@step:5").code == -9, "no step was done"
    os.replace(shutil.copy2(file, data / "aside"), file)
    end = bench.train("Supervised", data=data)
    assert end.code == 0 and "1 files of the data set" in end.out and "are not the same files" in end.out, end


def test_a_status_that_cannot_be_trusted_holds_no_run_up(bench: Bench) -> None:
    assert bench.train("Supervised", fault="kill@step:5").code == -9
    status = bench.run_folder() / "status.json"
    status.write_bytes(status.read_bytes()[:20])
    end = bench.train("Supervised")
    assert end.code == 0 and "WARNING" in end.out and "status.json" in end.out and "resumed at step 3" in end.out, end
    config = bench.run_folder() / "config.json"
    config.write_text(config.read_text().replace('"base_lr": 0.01', '"base_lr": 0.02'))
    end = bench.train("Supervised")
    assert end.code == 4 and "config.json: its values are not those of its digest" in end.err and "--fresh" in end.err, end
