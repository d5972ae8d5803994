"""Several scripts at a time: their lines, their failures, and an interruption in the middle."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from system.jobs import run_all


def job(title: str, text: str) -> tuple[str, list[str]]:
    return title, [sys.executable, "-c", text]


def test_lines_stand_behind_their_titles_and_failures_are_told(capfd: pytest.CaptureFixture) -> None:
    jobs = [job("good", "print('one')"), job("bad", "import sys; print('two'); sys.exit(3)"), job("late", "print('three')")]
    failed = run_all(jobs, 1)
    out = capfd.readouterr().out
    assert "[good] one" in out and "[bad] two" in out and "three" not in out
    assert failed == ["bad ended with code 3; its last lines are above."]
    assert len(run_all(jobs, 1, go_on=True)) == 1 and "[late] three" in capfd.readouterr().out


def test_what_follows_a_job_runs_after_it_alone_and_only_where_it_ended_well(capfd: pytest.CaptureFixture) -> None:
    jobs = [job("good", "print('one')"), job("bad", "import sys; sys.exit(3)"), job("alone", "print('two')")]
    failed = run_all(jobs, 1, go_on=True, then=lambda title: [] if title == "alone" else job("", "print('then')")[1])
    assert [line for line in capfd.readouterr().out.splitlines() if line] == ["[good] one", "[good] then", "[alone] two"]
    assert failed == ["bad ended with code 3; its last lines are above."]


def test_threads_are_the_users_where_they_are_told(capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = job("asked", "import os; print(os.environ['OMP_NUM_THREADS'])")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert not run_all([asked], 1) and "[asked] 7" in capfd.readouterr().out
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert not run_all([asked], 4) and "[asked] 3" in capfd.readouterr().out


def test_an_interruption_ends_what_runs_and_begins_nothing(tmp_path: Path) -> None:
    wait = ("import os, signal, sys, time\n"
            "def orderly(*_):\n    time.sleep({1}); open({0!r} + ' ended', 'w').close(); sys.exit({2})\n"
            "signal.signal(signal.SIGTERM, orderly); open({0!r}, 'w').write(str(os.getpid())); time.sleep(60)")
    jobs = [job(str(k), wait.format(str(tmp_path / str(k)), 1 - k / 2, 75 * (k == 0))) for k in range(3)]
    after = job("", f"open({str(tmp_path / 'after')!r}, 'w')")[1]
    code = ("import sys; sys.path.insert(0, sys.argv[1])\nfrom system.jobs import run_all\nfrom system.ending import finish_with\n"
            f"sys.exit(finish_with(lambda: run_all({jobs!r}, 2, then=lambda title: {after!r})))")
    process = subprocess.Popen([sys.executable, "-c", code, str(Path(__file__).parents[1] / "code")])
    limit = time.monotonic() + 60
    while not all((tmp_path / str(k)).exists() and (tmp_path / str(k)).read_text() for k in (0, 1)):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 75
    assert not (tmp_path / "2").exists() and not (tmp_path / "after").exists()
    for k in (0, 1):
        assert (tmp_path / f"{k} ended").exists(), "it was not waited for"
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / str(k)).read_text()), 0)
