"""Fixtures that several tests share: tiny data sets and a bench on which training scripts run in processes of their own."""
from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Bench, leave_undrawn
from narrow import make_narrow
from tiny import write_acdc, write_balls, write_folder

# A shell without job control starts what runs in the background deaf to Ctrl-C, and so would be every child to which tests send it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


SHARE_NOTHING = ("test_every_method", "test_engine", "test_faults", "test_distributed")
"""Files whose tests have no run in common, and are long."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With several workers (--dist loadgroup) the tests of a file stay in one, where they share runs; those that share none go anywhere."""
    for item in items:
        if item.path.stem not in SHARE_NOTHING:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: hundreds of synced checkpoints are written."""
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="semiseg-", dir=memory if os.access(memory, os.W_OK) else None))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny_acdc(scratch: Path) -> Path:
    """The tiny ACDC. Tests that damage data copy it first."""
    return write_acdc(scratch / "ACDC")


@pytest.fixture(scope="session")
def tiny_folder(scratch: Path) -> Path:
    """The tiny folder of pictures and masks."""
    return write_folder(scratch / "own")


@pytest.fixture
def bench(scratch: Path, tiny_acdc: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A bench of the test's own, on the tiny ACDC, with narrow networks."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir=scratch))
    folder.chmod(0o755)
    yield Bench(folder, tiny_acdc, narrow=True)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of this process as narrow as those of a bench, so that it can open the bench's runs."""
    make_narrow(monkeypatch.setattr)


@pytest.fixture(scope="module")
def narrow_module() -> Iterator[None]:
    """The same for all tests of a file, and what they share."""
    with pytest.MonkeyPatch.context() as patch:
        make_narrow(patch.setattr)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures of this process, which take longest, are not drawn."""
    leave_undrawn(monkeypatch)


@pytest.fixture(scope="session")
def volumes(scratch: Path) -> Path:
    """The tiny nnU-Net data set."""
    return write_balls(scratch / "Dataset007_Ball")
