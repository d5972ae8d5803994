"""The screen: what it cannot take never ends a program.

A terminal may be closed, the reader of a pipe may go, a service starts without standard streams, and a screen may not know a letter. While
`lasting` is open, letters are written as escapes where they must, and what cannot be written is let go.
"""
from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import Any


class Lasting(io.TextIOBase):
    """A stream in place of another one, of which everything is asked; it ends in silence where that one ends with an error."""

    def __init__(self, stream: Any):
        self.stream, self.gone = stream, False

    def write(self, text: str) -> int:
        if not self.gone:
            try:
                self.stream.write(text)
            except UnicodeEncodeError:
                self.stream.write(readable(text, self.encoding))
            except (OSError, ValueError):  # the terminal or the reader has gone, the disk behind it is full, it is closed
                self._let_go()
        return len(text)

    def flush(self) -> None:
        if not self.gone:
            try:
                self.stream.flush()
            except (OSError, ValueError):
                self._let_go()

    def _let_go(self) -> None:
        """Says no more; what the stream holds back is thrown away, since it would raise once more when the program ends."""
        self.gone = True
        with contextlib.suppress(OSError, ValueError, AttributeError, io.UnsupportedOperation):
            number, null = self.stream.fileno(), os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)
            os.close(null)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self.stream, "encoding", None) or "utf-8"

    @property
    def buffer(self) -> Any:
        return self.stream.buffer

    def isatty(self) -> bool:
        return not self.gone and bool(self.stream.isatty())

    def fileno(self) -> int:
        return int(self.stream.fileno())

    def writable(self) -> bool:
        return True


def readable(text: str, encoding: str) -> str:
    """Text of which letters that an encoding has not are escapes."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def occupy() -> None:
    """Opens nothing in the place of standard streams that are closed: else the next file that is opened would be taken for one of them."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """While open, standard output and standard error last as long as the program, whatever becomes of them."""
    occupy()
    before = sys.stdout, sys.stderr
    streams = [Lasting(open(os.devnull, "w", encoding="utf-8") if stream is None else stream) for stream in before]  # noqa: SIM115
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        for stream in streams:
            stream.flush()
        # One that has gone stays replaced: the interpreter flushes both once more when it ends.
        if not streams[0].gone and before[0] is not None and sys.stdout is streams[0]:
            sys.stdout = before[0]
        if not streams[1].gone and before[1] is not None and sys.stderr is streams[1]:
            sys.stderr = before[1]
