"""This computer in words, as reports and `edgesafe doctor` name it."""

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

GIB = 2**30
FEATURES = {  # our name -> the names that Linux and macOS give it; each matters to some runtime's kernels
    "avx2": {"avx2"},
    "avx512": {"avx512f"},
    "avx512_bf16": {"avx512_bf16"},
    "vnni": {"avx512_vnni", "avx_vnni"},
    "amx": {"amx_tile"},
    "neon": {"asimd", "neon"},
    "dotprod": {"asimddp", "FEAT_DotProd"},
    "i8mm": {"i8mm", "FEAT_I8MM"},
    "bf16": {"bf16", "FEAT_BF16"},
}


def cpu() -> tuple[str, list[str]]:
    """The processor's name, and which of FEATURES it has."""
    if Path("/proc/cpuinfo").is_file():
        rows = dict(line.split(":", 1) for line in Path("/proc/cpuinfo").read_text().splitlines() if ":" in line)
        rows = {key.strip(): value.strip() for key, value in rows.items()}
        name, flags = rows.get("model name", platform.machine()), set(rows.get("flags", rows.get("Features", "")).split())
    elif sys.platform == "darwin":
        name = _sysctl("-n", "machdep.cpu.brand_string").strip()
        flags = {line.split(":")[0].split(".")[-1] for line in _sysctl("hw.optional").splitlines() if line.endswith(": 1")}
        flags |= {"avx2"} & {flag.split("_")[0] for flag in flags}
    else:
        name, flags = platform.processor() or platform.machine(), set()
    return name, [feature for feature, names in FEATURES.items() if names & flags]


def _sysctl(*arguments: str) -> str:
    return subprocess.run(["sysctl", *arguments], capture_output=True, text=True, check=False).stdout


def memory_bytes() -> tuple[int, int | None]:
    """Physical memory, and the smaller limit that a container sets, if any."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else "max"
    return physical, int(text) if text.isdigit() and int(text) < physical else None


def machine() -> dict[str, str]:
    name, features = cpu()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    physical, limit = memory_bytes()
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "processor": f"{name}, {platform.machine()}",
        "features": ", ".join(features) or "none that matter, or this system does not tell",
        "cores": f"{usable} usable of {os.cpu_count()}",
        "memory": f"{physical / GIB:.1f} GiB" + (f", of which this container may use {limit / GIB:.1f} GiB" if limit else ""),
        "disk free": f"{shutil.disk_usage('.').free / GIB:.1f} GiB here",
    }
