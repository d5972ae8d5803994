"""What every training script ends with: its options parsed, its `main` called, every end a sentence and an exit code."""
from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace

from command_line.options import Kind, Main, Presets, parse
from dataloaders.errors import UserError
from engine.plan import answer
from networks import UnfitImages
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
        try:
            main(options)
        except UnfitImages as error:
            # A whole batch was tried before the first step; a method may hand a network a part of it.
            raise UserError(f"{error}. This method hands its network parts of a batch: choose a larger --labeled_bs (now "
                            f"{options.labeled_bs}) and --batch_size (now {options.batch_size}), or another --patch_size or --model."
                            ) from error

    sys.exit(finish_with(action, ending))
