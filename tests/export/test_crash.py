"""Whatever stops an export, what lay at its place before is whole, or the new one is; and the message names what was at work."""

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from edgesafe import artifact
from edgesafe.errors import ArtifactError, EdgeSafeError, FullDisk, OutOfMemory, Stopped
from edgesafe.export import ExportConfig, onnx, run, watch
from edgesafe.export.verify import VerifyConfig, verify
from edgesafe.export.watch import Watch

OLD, NEW = 2, 1  # steps of parity, by which killing.py tells the exports apart


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("crash") / "work"


@pytest.fixture(scope="module")
def stops(mini: Path, folder: Path) -> dict[str, list[dict]]:
    """What killing.py tells, by mode."""
    script = Path(__file__).with_name("killing.py")
    folder.mkdir()
    done = subprocess.run([sys.executable, str(script), str(mini), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {mode: [row for row in rows if row["mode"] == mode] for mode in ("moments", "errors", "kills")}


def test_a_kill_before_any_file_operation_leaves_a_whole_export_at_its_place(stops: dict[str, list[dict]]) -> None:
    done, *moments = stops["moments"]
    assert done["exit"] == 0 and len(moments) > 60
    kinds = {row["operation"].split()[0] for row in moments}
    assert {"open", "os.mkdir", "os.rename", "fsync", "exchange"} <= kinds
    found = [row["found"] for row in moments]
    swap = next(i for i, row in enumerate(moments) if row["operation"].startswith("exchange"))
    assert found == [OLD] * (swap + 1) + [NEW] * (len(found) - swap - 1) and found[-1] == NEW
    assert all(row["healed"] == {"found": row["found"], "beside": ["out"]} for row in moments), "the next command cleans up"


def test_a_crash_or_a_full_disk_at_any_write_leaves_nothing_half_written(stops: dict[str, list[dict]]) -> None:
    rows = stops["errors"]
    assert {row["how"] for row in rows} == {"crash", "full"} and len(rows) >= 12
    for row in rows:
        assert row["found"] in (OLD, NEW) and "out" in row["beside"], row
        if row["how"] == "full" and row["exit"]:
            assert row["exit"] == 2 and "out: the disk is full" in row["message"], row
    named = {row["message"].partition("full while ")[2].partition(".")[0] for row in rows}
    assert "sealing" in named and any(name.startswith("writing ") for name in named)


def test_twenty_kills_at_random_times(stops: dict[str, list[dict]]) -> None:
    rows = stops["kills"]
    assert sum(row["exit"] == -9 for row in rows) == 20
    assert all(row["found"] in (OLD, NEW) for row in rows)
    again = [row for row in rows if "next" in row]
    assert len(again) >= 4 and all(row["next"] == 0 and row["after"] == ["out"] for row in again)


def test_what_survived_all_of_it_verifies(stops: dict[str, list[dict]], folder: Path) -> None:
    assert verify(VerifyConfig(folder / "place" / "out"), Console(quiet=True))["passed"]


def test_the_next_export_says_what_a_killed_one_was_doing(mini: Path, tmp_path: Path) -> None:
    part = artifact.unfinished(tmp_path / "out")
    part.mkdir()
    (part / watch.DOING).write_text("writing unet")
    console = Console(record=True, quiet=False, file=io.StringIO(), width=200)
    out = run(ExportConfig(str(mini), "onnx", out=tmp_path / "out", parity_steps=1), console)
    assert "out before this one was killed while writing unet" in console.export_text()
    assert not (out / watch.DOING).exists() and watch.DOING not in artifact.read(out).files


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), FullDisk, "out: the disk is full while writing unet. Free some space"),
        (MemoryError(), OutOfMemory, "while writing unet: memory ran out. Nothing was written"),
        (RuntimeError("bad allocation"), OutOfMemory, "while writing unet: memory ran out"),
        (KeyboardInterrupt(), Stopped, "Stopped while writing unet. Nothing was written, and earlier exports are as they were"),
    ],
)
def test_the_part_at_work_is_named(
    error: BaseException, kind: type[EdgeSafeError], message: str, mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise error

    def write(self: object, model: object, folder: Path, begin: Callable[[str], None], *_: object) -> None:
        begin("unet")
        crash()

    monkeypatch.setattr(onnx.Onnx, "write", write)
    with pytest.raises(kind) as caught:
        run(ExportConfig(str(mini), "onnx", out=tmp_path / "out", parity_steps=1))
    assert message in str(caught.value) and caught.value.exit_code == (130 if kind is Stopped else 2)
    assert not list(tmp_path.iterdir())


def test_torchs_own_failed_allocation_is_memory_that_ran_out(tmp_path: Path) -> None:
    with pytest.raises(OutOfMemory, match="while drawing with torch: memory ran out"), Watch(Console(quiet=True), tmp_path) as at:
        at.begin("drawing with torch")
        torch.empty(2**62, dtype=torch.uint8)


def test_any_other_error_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Watch(Console(quiet=True), tmp_path):
        1 / 0  # noqa: B018


def test_a_disk_that_is_really_full(mini: Path, tmp_path: Path) -> None:
    """A file system of 100 KiB in memory, in a mount namespace of its own: less than the text encoder needs.

    coremltools writes weights in C++, whose error does not say why.
    """
    mount = f"mount -t tmpfs -o size=100k none {tmp_path}"
    if subprocess.run(["unshare", "-Urm", "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("mounting a file system is not allowed here")
    export = f"{sys.executable} -c 'from edgesafe.cli import main; main()' export {mini} --target coreml --parity-steps 1"
    script = f"{mount} && {export} --out {tmp_path}/out; echo exit $?; ls -A {tmp_path}"
    done = subprocess.run(["unshare", "-Urm", "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.rstrip().endswith("exit 2"), done.stdout + done.stderr
    assert f"Error: {tmp_path}/out: the disk is full while writing text_encoder. Free some space" in done.stderr


def test_two_moments_of_the_swap_have_an_export_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system cannot exchange two folders, the former one waits beside; whoever writes next puts it back."""
    monkeypatch.setattr(artifact.swap, "exchange", lambda *_: False)
    renames = []

    def rename(one: Path, other: Path) -> None:
        renames.append((Path(one).name, Path(other).name))
        if len(renames) == 2:
            raise KeyboardInterrupt
        os.replace(one, other)

    empty = artifact.Manifest("export", {"id": "x", "revision": None, "sha256": None}, "x", (), (), {})
    with artifact.staged(tmp_path / "out") as part:
        artifact.seal(part, empty)
    monkeypatch.setattr(artifact.os, "rename", rename)
    with pytest.raises(KeyboardInterrupt), artifact.staged(tmp_path / "out", force=True) as part:
        artifact.seal(part, empty)
    assert renames[:2] == [("out", ".out.old"), (".out.part", "out")] and renames[2] == (".out.old", "out")
    artifact.read(tmp_path / "out")
    with pytest.raises(ArtifactError, match="no such folder"):
        artifact.read(tmp_path / ".out.old")
