"""Versions and hardware, for the records of results."""

import os
import platform
from pathlib import Path

import numpy as np
import torch

from pruning_lab import __version__


def versions() -> dict[str, str]:
    """The versions that a result depends on, by name."""
    return {
        "pruning_lab": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def machine(device: torch.device | str = "cpu") -> dict:
    """The hardware, without the machine's name: records are published."""
    device = torch.device(device)
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }


def _processor() -> str:
    """The CPU's model name: from a file on Linux, from a call elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.machine())
