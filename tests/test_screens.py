"""What the screen cannot take never ends a program: letters, readers that go, streams that are not there; state and files come first."""
from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from dataloaders.errors import LOCKED, NO_LOCKS, NOT_PERMITTED, TOO_MANY, UserError, shown, trouble
from dataloaders.layouts.common import H5, open_picture, read_list
from dataloaders.layouts.nifti import read_header
from engine import run as engine_run
from storage.checkpoint import write_json
from storage.logbook import Lock, Logbook
from system.ending import Ending, finish_with
from system.signals import Signals, as_interrupts, heeded
from system.streams import Lasting, lasting, readable

CODE = Path(__file__).resolve().parents[1] / "code"


class Gone(io.StringIO):
    """A terminal that has been closed."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))

    flush = write  # type: ignore[assignment]


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EBADF])
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_screen_that_goes_ends_nothing(monkeypatch: pytest.MonkeyPatch, number: int, stream: str) -> None:
    monkeypatch.setattr(sys, stream, Gone(number))
    reached = []

    def action() -> None:
        for k in range(3):
            print("Δ Dice", k, file=getattr(sys, stream), flush=True)
        reached.append(k)

    assert finish_with(action) == 0 and reached == [2]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "latin-1"])
def test_letters_that_a_screen_has_not_become_escapes(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding=encoding))
    with lasting():
        print("class 裂纹, Δ, caf\udce9")
    assert rb"class \u88c2\u7eb9" in content.getvalue() and rb"caf\udce9" in content.getvalue()
    assert readable("a", encoding) == "a"


def test_no_standard_streams_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    with lasting():
        print("nobody hears")
        sys.stderr.write("nobody")
        sys.stdout.flush()
    assert finish_with(lambda: print("nobody")) == 0


def test_a_sound_screen_is_given_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with lasting():
        assert isinstance(sys.stdout, Lasting) and not sys.stdout.isatty()
        print("heard")
    assert sys.stdout is before and capsys.readouterr().out == "heard\n"


def test_a_closed_descriptor_is_not_taken_for_the_next_file(tmp_path: Path) -> None:
    script = (f"import sys; sys.path.insert(0, {str(CODE)!r})\nfrom system.streams import lasting\nwith lasting():\n"
              f"    file = open({str(tmp_path / 'log')!r}, 'w'); print('to nobody'); assert file.fileno() > 2; file.write('mine')\n")
    ended = subprocess.run(["bash", "-c", '"$0" -c "$1" >&- 2>&-', sys.executable, script])
    assert ended.returncode == 0 and (tmp_path / "log").read_text() == "mine"


@pytest.mark.parametrize("streams", [">&-", "| true", "> /dev/full", "2>&-"])
def test_commands_write_their_files_whatever_the_screen_does(tmp_path: Path, streams: str) -> None:
    script = (f"import sys, time; sys.path.insert(0, {str(CODE)!r})\nfrom system.streams import lasting\nwith lasting():\n"
              f"    time.sleep(0.2)\n    for k in range(2000): print('line', k, 'Δ')\n    open({str(tmp_path / 'done')!r}, 'w').close()\n")
    ended = subprocess.run(["bash", "-o", "pipefail", "-c", f'"$0" -c "$1" {streams}', sys.executable, script], stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
    assert ended.returncode == 0 and (tmp_path / "done").exists()


class Run(SimpleNamespace):
    began, device, checkpoint = True, None, Path("nowhere")

    def ended(self, state: str, reason: str, trace: str = "") -> None:
        self.order.append((state, reason, "Traceback" in trace))


def test_the_state_is_written_before_the_screen_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[Any] = []
    screen = SimpleNamespace(write=lambda text: order.append("screen"), flush=lambda: None, isatty=lambda: False, encoding="utf-8")
    monkeypatch.setattr(sys, "stderr", screen)
    ending = Ending()
    ending.run = Run(order=order)  # type: ignore[assignment]

    def action() -> None:
        raise ZeroDivisionError("by nothing")

    assert finish_with(action, ending) == 3
    assert order[0] == ("failed", "Failed: by nothing", True) and order[1] == "screen"


def test_lines_are_in_the_log_even_where_the_screen_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(text: str) -> None:
        raise OSError(errno.EIO, "gone")

    monkeypatch.setattr("storage.logbook.say", fails)
    book = Logbook(tmp_path, 1)
    with pytest.raises(OSError, match="gone"):
        book.say("last words, caf\udce9")
    book.close()
    assert r"last words, caf\udce9" in (tmp_path / "log.txt").read_text(encoding="utf-8")


def test_names_that_are_no_utf_8_come_back_from_json(tmp_path: Path) -> None:
    name = os.fsdecode("缺陷".encode("gbk"))
    write_json(tmp_path / "a.json", {"names": [name, "裂纹"]})
    text = (tmp_path / "a.json").read_bytes().decode("utf-8")
    assert json.loads(text) == {"names": [name, "裂纹"]} and "裂纹" in text and "\\udc" in shown(name)


def test_a_hangup_is_heeded_unless_it_is_ignored() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with Signals() as noted:
            os.kill(os.getpid(), signal.SIGHUP)
            assert noted.wanted
        with pytest.raises(KeyboardInterrupt), as_interrupts():
            os.kill(os.getpid(), signal.SIGHUP)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert signal.SIGHUP not in heeded("SIGTERM", "SIGHUP") and signal.SIGTERM in heeded("SIGTERM", "SIGHUP")
        with Signals() as noted, as_interrupts():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not noted.wanted
    finally:
        signal.signal(signal.SIGHUP, before)


# What the system says of a file or a lock


@pytest.mark.parametrize("numbers, words", [(LOCKED, "another process has it locked"), (NO_LOCKS, "cannot be locked in this place"),
                                            (NOT_PERMITTED, "not permitted"), (TOO_MANY, "too many files are open"),
                                            ({errno.EIO, errno.ESTALE}, "the system cannot read it")])
def test_each_kind_of_trouble_has_a_sentence(numbers: set[int], words: str) -> None:
    for number in numbers:
        said = trouble(OSError(number, os.strerror(number)))
        assert words in said and "download" not in said.lower()
    assert trouble(OSError("truncated file")) == trouble(OSError(errno.ENOENT, "no")) == ""


@pytest.mark.parametrize("number, words", [("EAGAIN", "another process has it locked"), ("EMFILE", "too many files"),
                                           ("EACCES", "not permitted"), ("ENOLCK", None), ("ENOSYS", None)])
def test_an_h5_file_that_is_not_at_fault_is_not_blamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str,
                                                        words: str | None) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = np.ones((2, 3, 4), np.float32)
    true = h5py.File

    def opened(file: Path, mode: str, locking: bool | None = None) -> Any:
        if locking is False:
            return true(file, mode, locking=False)
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

    monkeypatch.setattr(h5py, "File", opened)
    if words is None:
        with H5(tmp_path / "a.h5") as found:
            assert found.read("image", (3,)).shape == (2, 3, 4), "who only reads can do without a lock"
    else:
        with pytest.raises(UserError, match=words) as caught:
            H5(tmp_path / "a.h5")
        assert "download" not in str(caught.value)


@pytest.mark.parametrize("read, name", [(open_picture, "a.png"), (read_header, "a.nii.gz"), (read_header, "a.mha"), (read_list, "a.list")])
def test_a_full_table_of_files_blames_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Any, name: str) -> None:
    (tmp_path / name).write_bytes(b"x")

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    for place in ("builtins.open", "PIL.Image.open", "pathlib.Path.read_text", "pathlib.Path.read_bytes"):
        monkeypatch.setattr(place, fails)
    with pytest.raises(UserError) as caught:
        read(tmp_path / name)
    monkeypatch.undo()
    assert "too many files are open" in str(caught.value)


@pytest.mark.parametrize("number, goes_on", [
    ("ENOSYS", True), ("ENOLCK", True), ("EOPNOTSUPP", True), ("EAGAIN", False), ("EACCES", False)])
def test_a_file_system_without_locks_is_no_reason_not_to_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: str, goes_on: bool,
                                                              capsys: pytest.CaptureFixture[str]) -> None:
    def flock(*_: object) -> None:
        raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))

    monkeypatch.setattr("storage.logbook.fcntl.flock", flock)
    if goes_on:
        Lock(tmp_path).release()
        assert "cannot be locked" in capsys.readouterr().out
    else:
        with pytest.raises(UserError, match="in use by"):
            Lock(tmp_path)


def events_of(folder: Path) -> list[Any]:
    """What the event files of a folder hold: records of a length, its checksum, as many bytes, their checksum."""
    from tensorboardX.proto.event_pb2 import Event
    found = []
    for file in sorted(folder.glob("events.*")):
        content = file.read_bytes()
        while content:
            length = int.from_bytes(content[:8], "little")
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[16 + length :]
    return found


def test_what_tensorboard_reads(tmp_path: Path) -> None:
    book = Logbook(tmp_path, 10)
    book.begin(4, 0, "")
    book.record("train", 5, {"total": 0.5, "name": "not a number"})
    book.picture("views", np.full((4, 6, 3), 255, np.uint8), 5)
    book.picture("map", np.full((4, 6), 0.5, np.float32), 5)
    book.close()
    first, start, *values = events_of(tmp_path / "log")
    assert first.file_version == "brain.Event:2" and (start.step, start.session_log.status) == (4, start.session_log.START)
    told = {event.summary.value[0].tag: event.summary.value[0] for event in values}
    assert {event.step for event in values} == {5} and set(told) == {"train/total", "views", "map"}
    assert told["train/total"].simple_value == 0.5 and (told["map"].image.height, told["map"].image.width) == (4, 6)
    with Image.open(io.BytesIO(told["map"].image.encoded_image_string)) as image:
        assert np.asarray(image).max() == 127


def test_a_full_disk_stops_no_thread_of_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told to who records, not to a thread that dies, whose queue then fills."""
    book, before = Logbook(tmp_path, 10), threading.active_count()
    book.begin(0, 0, "")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    monkeypatch.setattr("storage.logbook.Board.FLUSHED_EVERY_S", 0.0)
    with pytest.raises(OSError, match="No space left"):
        book.record("train", 1, {"total": 0.5})
    book.close()
    assert threading.active_count() == before


def test_logbook_and_folder_are_given_back_where_the_state_cannot_be_written() -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    done: list[str] = []
    run = SimpleNamespace(monitor=SimpleNamespace(book=SimpleNamespace(status=full, close=lambda: done.append("logbook"))),
                          session=SimpleNamespace(release=lambda: done.append("folder")), _current=lambda: SimpleNamespace(steps_done=0))
    with pytest.raises(OSError, match="No space left"):
        engine_run.Run.ended(run, "failed", "why")  # type: ignore[arg-type]
    assert done == ["logbook", "folder"]
