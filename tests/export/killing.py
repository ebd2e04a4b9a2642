"""Run by test_crash.py as a process of its own: exports a small pipeline in forked children and stops them, again and again.

    killing.py SOURCE FOLDER

moments   one export; before each of its file operations a copy of all its files, which is what a kill would leave
errors    crashes, and full disks, at file operations
kills     20 SIGKILLs at random times

Every line of output is one stop, as JSON. FOLDER/place/out holds a finished export with two steps of parity, and each stop is of one that
would replace it, with one step. Forking after the imports pays for them once. One thread, because a forked child has no others.
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

import onnxruntime  # noqa: F401  (here, and not in each child)
import torch
from rich.console import Console
from transformers import CLIPTokenizerFast  # noqa: F401

from edgesafe import artifact, swap
from edgesafe.errors import EdgeSafeError
from edgesafe.export import ExportConfig, run, tokens

CHANGES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
EVENTS = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate")


class Crash(BaseException):
    """What nobody catches."""


def before_each(root: Path, stop: Callable[[str], None]) -> None:
    """From now on, call `stop` with a description before each file operation that changes something under `root`, its own ones excepted."""
    inside = False

    def operation(name: str) -> None:
        nonlocal inside
        if not inside:
            inside = True
            try:
                stop(name.replace(str(root), ""))
            finally:
                inside = False

    def hook(event: str, arguments: tuple) -> None:
        changes = event in EVENTS or (event == "open" and isinstance(arguments[2], int) and arguments[2] & CHANGES)
        if changes and isinstance(arguments[0], str | os.PathLike) and os.fspath(arguments[0]).startswith(str(root)):
            operation(f"{event} {os.fspath(arguments[0])}")

    def wrapped(real: Callable, name: str) -> Callable:
        def call(*given: object) -> object:
            operation(f"{name} {given[0]}")
            return real(*given)

        return call

    os.fsync, swap.exchange = wrapped(os.fsync, "fsync"), wrapped(swap.exchange, "exchange")
    sys.addaudithook(hook)


def child(source: str, out: Path, stop: Callable[[str], None] | None = None, seconds: float | None = None, steps: int = 1) -> dict:
    """One export in a fork, stopped by `stop`, or by SIGKILL after `seconds`: its exit status and last words."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        if stop:
            before_each(out.parent, stop)
        said, code = "", 0
        try:
            run(ExportConfig(source, "onnx", out=out, force=True, parity_steps=steps), Console(quiet=True))
        except EdgeSafeError as error:
            said, code = str(error), 2
        except Crash:
            code = 1
        os.write(writing, said.encode())
        os._exit(code)
    os.close(writing)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    return {"exit": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), "message": said}


def state(out: Path) -> dict:
    """Which export is at `out`, by its manifest, and what lies beside it. Raises: ArtifactError where it is not whole."""
    return {"found": artifact.read(out).parity["steps"], "beside": sorted(path.name for path in out.parent.iterdir())}


def healed(out: Path) -> dict:
    """The state after a next command that fails at once: it cleans up, and changes nothing."""
    try:
        with artifact.staged(out, force=True):
            raise Crash
    except Crash:
        return state(out)


def moments(source: str, out: Path) -> None:
    copies = out.parent.with_name("copies")

    def stop(name: str) -> None:
        number = len(list(copies.iterdir()))
        shutil.copytree(out.parent, copies / str(number), symlinks=True)
        (copies / str(number) / "operation").write_text(name)

    copies.mkdir()
    say("moments", child(source, out, stop))
    for copy in sorted(copies.iterdir(), key=lambda path: int(path.name)):
        name = (copy / "operation").read_text()
        (copy / "operation").unlink()
        say("moments", {"operation": name} | state(copy / out.name) | {"healed": healed(copy / out.name)})


def errors(source: str, out: Path) -> None:
    """A crash or, in turn, a full disk at every eleventh operation and at each of the last six."""
    count = len(list(out.parent.with_name("copies").iterdir()))
    for at in [*range(0, count - 6, 11), *range(count - 6, count)]:
        how, left = ("crash", "full")[at % 2], [at]

        def stop(name: str, how: str = how, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] == -1:
                raise Crash if how == "crash" else OSError(28, "No space left on device")

        put_back(out)
        say("errors", {"at": at, "how": how} | child(source, out, stop) | state(out))


def kills(source: str, out: Path) -> None:
    put_back(out)
    begun = time.monotonic()
    child(source, out)
    length, chance, killed = time.monotonic() - begun, random.Random(0), 0
    while killed < 20:
        done = child(source, out, seconds=chance.uniform(0, length))
        killed += done["exit"] == -signal.SIGKILL
        found = state(out)
        again = {"next": child(source, out)["exit"], "after": state(out)["beside"]} if killed % 5 == 0 else {}
        say("kills", done | found | again)


def put_back(out: Path) -> None:
    shutil.rmtree(out.parent)
    shutil.copytree(out.parent.with_name("kept"), out.parent)


def say(mode: str, row: dict) -> None:
    print(json.dumps({"mode": mode} | row), flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    pipeline, place = sys.argv[1], Path(sys.argv[2]).resolve() / "place" / "out"
    place.parent.mkdir(parents=True)
    tokens._wanted = cache(tokens._wanted)
    tokens._wanted(Path(pipeline) / "tokenizer")  # once, and not in each child
    child(pipeline, place, steps=2)
    shutil.copytree(place.parent, place.parent.with_name("kept"))
    for mode in (moments, errors, kills):
        mode(pipeline, place)
