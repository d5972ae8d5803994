"""The worked example of data/README.md: one file in layouts/ is a data set that is checked, trained, tested and predicted."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import slice_of

from dataloaders.description import DataSet
from dataloaders.errors import UserError
from dataloaders.layouts.acdc import AcdcSource
from dataloaders.splits.split import SplitRequest, make_split

ROOT = Path(__file__).resolve().parent.parent
LISTS = {"train": [f"plate1/a{well}_{view}" for well in range(3) for view in range(2)], "val": ["plate2/a0_0", "plate2/a1_0"],
         "test": ["plate2/a2_0"]}


def write_cells(root: Path) -> Path:
    """As the page says; the last two of the training part have no mask."""
    rng = np.random.default_rng(0)
    for part, names in LISTS.items():
        for k, name in enumerate(names):
            image, label = slice_of(rng, 40, 48, 2)
            for kind in ("stacks", "nuclei"):
                (root / kind / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((np.clip(image, 0, 1) * 255).astype(np.uint8)).save(root / "stacks" / f"{name}.png")
            if part != "train" or k < 4:
                Image.fromarray(label * np.uint8(255)).save(root / "nuclei" / f"{name}.png")
        (root / f"{part}.txt").write_text("\n".join(names))
    return root


ONE_AFTER_ANOTHER = """
import runpy, sys
from pathlib import Path
for line in ("prepare.py --check data/Cells",
             "train_MeanTeacher.py --dataset cells --root_path data/Cells --labeled_num 2 --patch_size 32 32 --batch_size 4 "
             "--labeled_bs 2 --max_iterations 4 --val_every 2 --device cpu",
             "test_2D.py --device cpu",
             "predict.py --run RUN --input data/Cells/stacks/plate1 --output new --device cpu"):
    sys.argv = [str(next(Path("model").rglob("config.json")).parent) if word == "RUN" else word for word in line.split()]
    try:
        runpy.run_path({code!r} + "/" + sys.argv[0], run_name="__main__")
    except SystemExit as end:
        assert not end.code, (line, end.code)
"""
"""The commands of the page in one interpreter, with one folder more in which layouts may lie; a copy of code/ is compiled for a minute."""


def test_the_example_is_one_file_and_works(tmp_path):
    page = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    (where, text), = re.findall(r"^Write `(code/dataloaders/layouts/\w+\.py)`:\n\n```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert not (ROOT / where).exists(), "the example must not be a data set of the suite"
    (tmp_path / Path(where).name).write_text(text, encoding="utf-8")
    (tmp_path / "sitecustomize.py").write_text(f"from dataloaders import layouts; layouts.__path__.append({str(tmp_path)!r})")
    write_cells(tmp_path / "data" / "Cells")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT / "code")))} | {
        f"SEMISEG_{name}": str(tmp_path / name.lower()) for name in ("MODEL", "RESULTS", "CACHE")}

    words = [sys.executable, "-c", ONE_AFTER_ANOTHER.format(code=str(ROOT / "code"))]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Cells: 6 train, 2 val, 1 test" in done.stdout
    assert "official split: 2 of 6 training images labelled, 2 cases for validation" in done.stdout and "our own micrographs" in done.stdout
    result = json.loads(next((tmp_path / "results").rglob("*.json")).read_text())
    assert [case["name"] for case in result["cases"]] == ["plate2/a2_0"] and result["run"]["data_set"] == "Cells"
    assert Image.open(tmp_path / "new" / "masks" / "a0_0.png").size == (48, 40)


def test_a_protocol_that_its_reader_cannot_make_says_what_to_write(tmp_path):
    class Cells(AcdcSource):
        protocols = {"fair": AcdcSource.protocols["official"]}

    source = Cells(DataSet("Cells", Cells, ("background", "nucleus")), tmp_path)
    with pytest.raises(UserError) as error:
        make_split(source, SplitRequest())
    said = str(error.value)
    assert "Cells is described with the protocol official, which its reader Cells" in said and "test_named_data_set.py" in said
    assert "`protocols` there has fair" in said and "Add 'official' and a function (source, split_seed, with_test) -> Parts" in said
