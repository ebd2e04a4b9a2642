"""A measurement in a process of its own: `call("cold", spec)` runs `latency.cold(**spec)` in a fresh Python and returns what it returns."""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

from edgesafe.errors import EdgeSafeError

MARK = "result of the measurement: "


class CellFailed(EdgeSafeError):
    """A measurement that did not end well; the report shows its reason in its place."""


def call(task: str, spec: dict[str, Any], threads: int) -> dict[str, Any]:
    """Raises: CellFailed with the last line that the child wrote."""
    command, env = [sys.executable, "-m", __spec__.name, task], environment(threads)
    text = json.dumps(spec | {"threads": threads, "spawned_s": time.time()})
    result = subprocess.run(command, input=text, capture_output=True, text=True, env=env, check=False)
    if result.returncode == 0:
        lines = [line for line in result.stdout.splitlines() if line.startswith(MARK)]
        return json.loads(lines[-1].removeprefix(MARK))
    if result.returncode < 0:
        why = " (out of memory?)" if result.returncode == -signal.SIGKILL else ""
        raise CellFailed(f"the measuring process was killed by signal {-result.returncode}{why}")
    raise CellFailed(last_words(result.stderr, result.returncode))


def environment(threads: int) -> dict[str, str]:
    """This process's, with so many threads for every library."""
    return os.environ | {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


def last_words(stderr: str, code: int) -> str:
    """Why a child ended, in one line: the message of its last exception."""
    return (stderr.strip().splitlines() or [f"exit code {code}"])[-1].strip()


def main() -> None:
    from . import latency

    task = {"cold": latency.cold, "warm": latency.warm}[sys.argv[1]]
    print(MARK + json.dumps(task(**json.load(sys.stdin)), allow_nan=False))


if __name__ == "__main__":
    main()
