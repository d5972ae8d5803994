"""How fast a command starts: what takes seconds to load is loaded by whoever needs it."""
from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

CODE = Path(__file__).parents[1] / "code"


def test_training_starts_without_what_it_may_never_need() -> None:
    """matplotlib draws for testers and reports; torch's compiler is there for --compile."""
    looks = "import sys, train_MeanTeacher; print([name for name in ('matplotlib', 'torch._dynamo', 'skimage') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", looks], cwd=CODE, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_command_starts_where_python_does_not_look_beside_a_script() -> None:
    """-P, -I, PYTHONSAFEPATH: `make setup` has written down where modules are."""
    place = Path(sysconfig.get_path("purelib")) / "semisegbench.pth"
    if not place.exists() or place.read_text().strip() != str(CODE):
        pytest.skip("this Python was not set up by `make setup` in this folder")
    done = subprocess.run([sys.executable, "-I", str(CODE / "report.py"), "--help"], cwd="/", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
