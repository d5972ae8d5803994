"""What no method should care about: options, devices, precision, schedules, checkpoints, logs, progress, randomness."""
from engine.launch import launch
from engine.options import Options, Presets, parse
from engine.run import Run

__all__ = ["Options", "Presets", "Run", "launch", "parse"]
