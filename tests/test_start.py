"""How fast a command starts: what takes seconds to load is loaded by whoever needs it."""
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = Path(__file__).parents[1] / "code"


def test_training_starts_without_what_it_may_never_need() -> None:
    """matplotlib draws for testers and reports; torch's compiler is there for --compile."""
    looks = "import sys, train_MeanTeacher; print([name for name in ('matplotlib', 'torch._dynamo', 'skimage') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", looks], cwd=CODE, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
