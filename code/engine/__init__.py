"""What no method should care about: options, devices, precision, schedules, checkpoints, logs, progress, randomness."""
from command_line.options import Options, Presets, parse
from engine.launch import launch
from engine.run import Run

__all__ = ["Options", "Presets", "Run", "launch", "parse"]
