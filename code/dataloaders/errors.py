"""Mistakes of the person at the keyboard, or of the files: a sentence and an exit code, never a traceback."""
from __future__ import annotations

import errno


def numbers(*names: str) -> frozenset[int]:
    """The error numbers of these names, as far as the system has them."""
    return frozenset(getattr(errno, name) for name in names if hasattr(errno, name))


LOCKED = numbers("EAGAIN", "EWOULDBLOCK")
NO_LOCKS = numbers("ENOSYS", "ENOLCK", "ENOTSUP", "EOPNOTSUPP", "EINVAL")
NOT_PERMITTED = numbers("EACCES", "EPERM", "EROFS")
TOO_MANY = numbers("EMFILE", "ENFILE")
GONE = numbers("ENOENT", "ENOTDIR", "EISDIR")


def trouble(error: OSError) -> str:
    """What kept the system from reading or writing, and what to do; "" where it says nothing, and the file itself must be looked at."""
    if error.errno is None or error.errno in GONE:
        return ""
    if error.errno == errno.ELOOP:
        return f"a link that leads in a circle ({error.strerror}). Put the file itself there."
    if error.errno in LOCKED:
        return "in use: another process has it locked. Wait for it, or close the program that has it open."
    if error.errno in NO_LOCKS:
        return f"cannot be locked in this place ({error.strerror}): the file system knows no locks."
    if error.errno in NOT_PERMITTED:
        return f"not permitted ({error.strerror}). Mend the permissions of the file and its folder, or ask who owns them."
    if error.errno in TOO_MANY:
        return f"too many files are open ({error.strerror}); the file itself may be sound. Raise the limit: ulimit -n 4096."
    return f"the system cannot read it ({error.strerror}); the file itself may be sound. Try again, and look at the disk or the network."


def shown(text: object) -> str:
    """Text for a screen, a table or a picture: names that are no UTF-8, and control characters, become escapes."""
    plain = str(text).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)


class UserError(Exception):
    """What was found, where, what was expected, what to type. `code`: 2 arguments or data, 3 failure, 4 damaged file."""

    def __init__(self, message: str, code: int = 2):
        super().__init__(message)
        self.code = code


class Problems:
    """Collects every problem of a data folder, so that all are reported together."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def add(self, problem: str | Exception) -> None:
        self.messages.append(str(problem))

    def raise_any(self, heading: str, most: int = 20) -> None:
        """Raises `UserError` with all problems (the first `most` in full) if there are any."""
        if not self.messages:
            return
        if len(self.messages) == 1:
            raise UserError(self.messages[0])
        lines = [f"{heading}: {len(self.messages)} problems."] + [f"  - {m}" for m in self.messages[:most]]
        if len(self.messages) > most:
            lines.append(f"  ... and {len(self.messages) - most} more")
        raise UserError("\n".join(lines))
