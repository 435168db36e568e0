"""Checkpoints: named tensors in ranges, whole or absent, for any ZeRO stage on any number of ranks."""

from core.checkpoint.format import DamagedCheckpoint
from core.checkpoint.pace import Pace
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.reconstruct import Reconstruction, reconstruct
from core.checkpoint.restore import load, resume
from core.checkpoint.snapshot import HostMemory, Snapshot, take, take_averages
from core.checkpoint.store import AVERAGES, FOLDER, CheckpointStore
from core.checkpoint.weights import find, load_weights
from core.checkpoint.writer import write_checkpoint

__all__ = [
    "AVERAGES",
    "FOLDER",
    "CheckpointReader",
    "CheckpointStore",
    "DamagedCheckpoint",
    "HostMemory",
    "Pace",
    "Reconstruction",
    "Snapshot",
    "find",
    "load",
    "load_weights",
    "reconstruct",
    "resume",
    "take",
    "take_averages",
    "write_checkpoint",
]
