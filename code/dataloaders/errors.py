"""Mistakes of the person at the keyboard, or of the files: a sentence and an exit code, never a traceback."""


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
