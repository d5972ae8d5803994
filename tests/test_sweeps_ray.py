"""Sweeps by Ray: a real one whose worker and driver are killed, and one on a cluster of two nodes, stopped in the middle."""
from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_run import fake

from sweeps.work import read_json
from sweeps.work import tested as is_tested

pytest.importorskip("ray")
CODE, TESTS = Path(__file__).parents[1] / "code", Path(__file__).parent


def until(true, process: subprocess.Popen, seconds: float = 120):
    """Waits; gives the first true value."""
    limit = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < limit, "waited in vain"
        assert process.poll() is None, f"it ended with code {process.poll()}: {process.stdout.read()}"
        time.sleep(0.02)
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


DRIVER = """
import sys; sys.path[:0] = {path!r}
from pathlib import Path; from fake_run import fake
from cross_validate import CrossValidate, conduct; from system.ending import finish_with
jobs = [fake(Path({root!r}), name, codes) for name, codes in {jobs!r}]
sys.exit(finish_with(lambda: conduct("X", jobs, CrossValidate(("Fake",), {how}))))
"""


def driver(root: Path, jobs: list[tuple[str, str]], how: str) -> list[str]:
    """The command of a sweep of such runs."""
    return [sys.executable, "-c", DRIVER.format(path=[str(CODE), str(TESTS)], root=str(root), jobs=jobs, how=how)]


def pids(job) -> list[int]:
    """Of every start of a run."""
    file = Path(job.folder) / "starts"
    return [int(line.split()[0]) for line in file.read_text().splitlines()] if file.exists() else []


def test_nothing_is_lost_when_a_worker_and_the_driver_are_killed(tmp_path: Path) -> None:
    command = driver(tmp_path, [(name, "wait") for name in "abc"], "jobs=2")
    jobs = {name: fake(tmp_path, name) for name in "abc"}

    def start() -> subprocess.Popen:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    process = start()
    until(lambda: all(pids(jobs[name]) for name in "ab"), process)
    worker = parent(pids(jobs["a"])[0])
    assert "ray::work" in Path(f"/proc/{worker}/cmdline").read_text()
    os.kill(worker, signal.SIGKILL)
    until(lambda: len(pids(jobs["a"])) + len(pids(jobs["c"])) == 2, process)
    process.kill()
    process.wait()
    limit = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for job in jobs.values() for pid in pids(job)):
        assert time.monotonic() < limit, "a script outlives the worker that started it"
        time.sleep(0.05)
    (tmp_path / "go").touch()
    said = start().communicate(timeout=120)[0]
    assert "3 done" in said and all(is_tested(job) for job in jobs.values()), said
    assert len(pids(jobs["a"])) >= 2 and len(pids(jobs["b"])) >= 2, "what was killed under way is begun again"


def test_a_cluster_of_two_nodes(tmp_path: Path) -> None:
    """One core a node: both are at work at the same time. Ctrl-C lets them save; the same command ends all, with the failure told."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    ray = [str(Path(sys.executable).parent / "ray"), "start", "--num-cpus", "1", "--object-store-memory", "80000000",
           "--disable-usage-stats", "--block"]
    environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64}
    scratch = Path("/tmp") / f"ray-{os.getpid()}"  # sockets have short names
    nodes = []
    try:
        for words in (["--head", "--node-ip-address", "127.0.0.1", "--port", address.split(":")[1], "--include-dashboard", "false",
                       "--temp-dir", str(scratch)], ["--address", address]):
            nodes.append(subprocess.Popen([*ray, *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT))
            limit = time.monotonic() + 60
            while len(nodes) == 1 and time.monotonic() < limit:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", int(address.split(":")[1]))) == 0:
                        break
                time.sleep(0.1)
        command = driver(tmp_path, [("a", "wait"), ("b", "wait"), ("c", "0"), ("d", "3")], f"address={address!r}")
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   text=True)
        jobs = {name: fake(tmp_path, name) for name in "abcd"}
        both = [Path(jobs[name].folder) / "metrics.jsonl" for name in "ab"]
        until(lambda: all(path.exists() for path in both), process)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[0]
        assert process.returncode == 75 and "Nothing is lost" in said, said
        assert all(read_json(path.with_name("status.json"))["state"] == "interrupted" for path in both)
        assert not Path(jobs["c"].folder).exists()
        (tmp_path / "go").touch()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 3 and "1 of 4 runs failed:\nd: exit code 3: it went wrong" in done.stderr, done.stderr
        assert all(is_tested(jobs[name]) for name in "abc") and len((Path(jobs["d"].folder) / "starts").read_text().splitlines()) == 3
    finally:
        for node in reversed(nodes):
            node.terminate()
        for node in nodes:
            try:
                node.wait(30)
            except subprocess.TimeoutExpired:
                node.kill()
        shutil.rmtree(scratch, ignore_errors=True)
