"""What every training script ends with: its options parsed, its `main` called, every end a sentence and an exit code."""
from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from command_line.options import Kind, Main, Presets, parse
from engine.plan import answer
from system import distributed
from system.ending import Ending, finish_with


def launch(main: Main[Kind], kind: type[Kind], presets: Presets, arguments: Sequence[str] | None = None) -> None:
    """Runs a script: parses its options, calls `main`, turns every end into a sentence, a state in status.json and an exit code."""
    if "SEMISEG_PLAN" in os.environ:
        sys.exit(answer(kind, presets))
    ending = Ending()

    def action() -> None:
        distributed.join()
        options = distributed.quietly(lambda: parse(kind, presets, arguments))
        options.resolved = replace(options.resolved, ending=ending)
        main(options)

    sys.exit(finish_with(action, ending))
