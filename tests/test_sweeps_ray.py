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
from harness import SHORT, Bench, outcome, together

from sweeps.work import read_json
from sweeps.work import tested as is_tested

pytest.importorskip("ray")
CODE, TESTS = Path(__file__).parents[1] / "code", Path(__file__).parent
METHODS, SEEDS = ("Supervised", "MeanTeacher"), (0, 1, 2)


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


def test_nothing_is_lost_when_a_worker_and_the_driver_are_killed(bench: Bench) -> None:
    bench.narrow = False  # as the scripts are that a sweep starts
    words = list(SHORT[: SHORT.index("--exp")])
    budget = words.index("--labeled_num")
    del words[budget : budget + 2]
    command = [sys.executable, str(CODE / "cross_validate.py"), "--dataset", "ACDC", "--root_path", str(bench.data), "--labeled_num", "2",
               "--methods", *METHODS, "--seeds", *map(str, SEEDS), "--exp", "run", "--jobs", "2", *words]
    places = {"SEMISEG_MODEL": str(bench.folder / "model"), "SEMISEG_RESULTS": str(bench.folder / "results"),
              "SEMISEG_CACHE": str(bench.folder / "cache")}

    def start() -> subprocess.Popen:
        return subprocess.Popen(command, env={**os.environ, **places}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def running() -> list[int]:
        """Processes of the scripts that train."""
        found = [read_json(path) for path in (bench.folder / "model").rglob("status.json")]
        return [one["pid"] for one in found if one.get("state") == "running"]

    process = start()
    script = until(running, process)[0]
    worker = parent(script)
    assert "ray::work" in Path(f"/proc/{worker}/cmdline").read_text()
    os.kill(worker, signal.SIGKILL)
    until(lambda: len(list((bench.folder / "results").rglob("*seed*.json"))) >= 2 and running(), process)
    left = running()
    process.kill()
    process.wait()
    said = start().communicate(timeout=280)[0]
    assert "6 done" in said, said
    assert not any(Path(f"/proc/{pid}").exists() for pid in (script, *left))
    assert len(list((bench.folder / "results").rglob("*official_seed?_*.json"))) >= 6
    assert len(read_json(bench.folder / "results/run/splits.json")["splits"]) == 1

    def alone(method: str, seed: int) -> None:
        end = bench.train(method, "--dataset", "ACDC", "--seed", str(seed), "--exp", f"run/{method}", model="alone")
        assert end.code == 0, end.err

    together([lambda method=method, seed=seed: alone(method, seed) for method in METHODS for seed in SEEDS])
    runs = sorted(path.parent.relative_to(bench.folder / "alone") for path in (bench.folder / "alone").rglob("config.json"))
    assert len(runs) == 6
    for run in runs:
        assert outcome(bench.folder / "model" / run) == outcome(bench.folder / "alone" / run), run
        assert (bench.folder / "results" / run.parent / f"{run.name}.json").exists()


DRIVER = """
import sys; sys.path[:0] = {path!r}
from pathlib import Path; from fake_run import fake
from cross_validate import CrossValidate, conduct; from system.ending import finish_with
jobs = [fake(Path({root!r}), name, codes) for name, codes in (("a", "wait"), ("b", "wait"), ("c", "0"), ("d", "3"))]
sys.exit(finish_with(lambda: conduct("X", jobs, CrossValidate(("Fake",), address={address!r}))))
"""


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
        text = DRIVER.format(path=[str(CODE), str(TESTS)], root=str(tmp_path), address=address)
        process = subprocess.Popen([sys.executable, "-c", text], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
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
        done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True, timeout=120)
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
