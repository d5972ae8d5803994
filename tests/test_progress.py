"""How far a long work is, on a terminal and in a file."""
from __future__ import annotations

import pytest

from dataloaders import progress
from dataloaders.progress import Progress


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that a test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def work(clock: list[float], count: int, seconds: float) -> None:
    for _ in Progress(range(count), "reading"):
        clock[0] += seconds


def test_what_is_done_soon_says_nothing(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    work(clock, 1000, 0.02)
    assert capsys.readouterr() == ("", "")


def test_a_file_gets_a_line_every_so_often(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    """One for every 5 % at the most, and one every 10 minutes at the least; never a bar."""
    work(clock, 1000, 2.0)
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == "reading: 50 of 1000 case (5 %), 2.0 s/case, about 31.7 min left"
    assert len(out.splitlines()) == 19 and "\r" not in out and err == ""
    work(clock, 100, 500.0)
    assert len(capsys.readouterr().out.splitlines()) == 49
    work(clock, 8, 10000.0)
    assert len(capsys.readouterr().out.splitlines()) == 7


def test_a_terminal_gets_a_bar(clock: list[float], capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "BAR_AFTER", 0.0)
    work(clock, 1000, 2.0)
    out, err = capsys.readouterr()
    assert out == "" and "\r" in err


def test_training_goes_on_where_it_was(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    """A resumed run counts on, and its pace is that of the steps made now."""
    with Progress(title="training", total=30000, unit="it", first=15000) as bar:
        for _ in range(1500):
            clock[0] += 0.1
            bar.update(loss="0.41")
    assert capsys.readouterr().out == "training: 16500 of 30000 it (55 %), 10.0 it/s, about 22.5 min left; loss 0.41\n"


def test_one_of_several_processes_shows(clock: list[float], capsys: pytest.CaptureFixture) -> None:
    for _ in Progress(range(100), "reading", shown=False):
        clock[0] += 60
    assert capsys.readouterr() == ("", "")
