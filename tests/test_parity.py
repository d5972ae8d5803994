"""Golden files made by running the published code: every array of something built must match, values and gradients.

The files lie in $PARITY_DIR (tests/golden without it). What a file holds and how near is near enough: shared/parity/README.md; who
computes it: `parity_cases`. `pytest -rA tests/test_parity.py` lists the arrays that are not compared yet.
"""
from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from parity_cases import BUILT, LATER
from parity_tools import Golden, Parity, differences

FOLDER = Path(os.environ.get("PARITY_DIR") or Path(__file__).parent / "golden")
FILES = sorted(FOLDER.glob("*.npz"))


def examine(path: Path) -> None:
    """Passes, skips with the method that a file waits for, or fails with every array that differs."""
    name = path.stem
    if name in LATER:
        pytest.skip(f"{LATER[name]} is not built yet")
    if name not in BUILT:
        pytest.fail(f"{path}: nobody knows this file; add it to parity_cases")
    golden = Golden(path)
    wrong, left_out = differences(BUILT[name], golden, BUILT[name].compute(golden))
    if left_out:
        print(f"{name}: not built, not compared: {', '.join(left_out)}")
    if wrong:
        pytest.fail("\n".join([f"{path}:", *wrong]), pytrace=False)


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_golden_file(path):
    examine(path)


def test_there_are_files():
    assert FILES, f"{FOLDER} holds no golden file"
    assert not set(BUILT) & set(LATER)


def test_a_file_that_nobody_knows_fails(tmp_path):
    np.savez(tmp_path / "unheard_of.npz", out_x=np.zeros(1))
    with pytest.raises(pytest.fail.Exception, match="nobody knows"):
        examine(tmp_path / "unheard_of.npz")


WANT = {"out_single": np.ones(3, np.float32), "out_double": np.ones(3), "grad_x": np.array([1.0, 1e-3], np.float32),
        "out_map": np.ones((2, 2), np.uint8), "out_nan": np.array([1.0, np.nan])}


@pytest.mark.parametrize("name, change, sentence", [
    ("out_single", 2e-5, "3 of 3 elements"), ("out_double", 2e-9, "3 of 3 elements"), ("grad_x", [0, 1.2e-5], "1 of 2 elements"),
    ("out_map", [[0, 0], [0, 1]], "1 of 4 elements"), ("out_nan", [np.nan, 0], "NaN"), ("out_single", None, "nobody computes"),
])
def test_the_comparer_sees(tmp_path, name, change, sentence):
    np.savez(tmp_path / "file.npz", **WANT)
    golden, computed = Golden(tmp_path / "file.npz"), {key: value.copy() for key, value in WANT.items()}
    assert differences(Parity(lambda golden: {}), golden, computed) == ([], [])
    if change is None:
        del computed[name]
    else:
        computed[name] = (computed[name] + np.asarray(change, computed[name].dtype)).astype(computed[name].dtype)
    wrong, _ = differences(Parity(lambda golden: {}), golden, computed)
    assert len(wrong) == 1 and sentence in wrong[0]


def test_the_comparer_takes_rounding_and_says_what_is_left_out(tmp_path):
    np.savez(tmp_path / "file.npz", **WANT)
    computed = {
        "out_single": np.float32(1 + 5e-6) * WANT["out_single"], "out_double": WANT["out_double"] + 5e-10, "out_nan": WANT["out_nan"],
        "grad_x": WANT["grad_x"] + np.float32(5e-6), "out_map": np.ma.array([[1, 9], [1, 1]], mask=[[0, 1], [0, 0]]),
    }
    golden = Golden(tmp_path / "file.npz")
    assert differences(Parity(lambda golden: {}), golden, computed) == ([], ["out_map[0, 1]"])
    del computed["out_nan"]
    assert differences(Parity(lambda golden: {}, later=("out_n*",)), golden, computed) == ([], ["out_map[0, 1]", "out_nan"])
    assert differences(Parity(lambda golden: {}), golden, {**computed, "out_y": 1.0, "out_nan": WANT["out_nan"]})[0]
