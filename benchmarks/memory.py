"""The peak memory of this process, in MiB of resident set."""

import resource
import sys
from pathlib import Path

MIB = 2**20


def peak_mib() -> float:
    """Since the process started. Linux: VmHWM, because ru_maxrss there keeps the parent's peak across fork and exec."""
    status = Path("/proc/self/status")
    if status.is_file():
        rows = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        return int(rows["VmHWM"].split()[0]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / 1024
