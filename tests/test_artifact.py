"""Sealing, reading and staging folders; a crash or a full disk at any write leaves the former folder or the new one, whole."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from edgesafe import artifact
from edgesafe.artifact import Manifest, Step, newest, read, seal, staged
from edgesafe.errors import ArtifactError

EMPTY = Manifest(
    kind="run",
    base_model={"id": "emoji:teacher", "revision": None, "sha256": None},
    control="emoji:student",
    steps=(Step("train", "bilevel", {"steps": 3, "out": Path("runs/a")}, 0, {"python": "3.11.7"}),),
    concepts=({"name": "neon", "kind": "style"},),
    files={},
)


def make(folder: Path, text: str = "weights", kind: str = "run") -> Manifest:
    (folder / "model" / "unet").mkdir(parents=True)
    (folder / "model" / "unet" / "w.safetensors").write_text(text)
    (folder / "config.json").write_text("{}")
    for name in ("checkpoint", "logs"):
        (folder / name).mkdir()
        (folder / name / "state").write_text("changes later")
    return seal(folder, replace(EMPTY, kind=kind))


def test_reads_what_was_sealed_and_lists_every_file_but_the_excluded(tmp_path: Path) -> None:
    sealed = make(tmp_path / "a")
    assert read(tmp_path / "a") == sealed
    assert set(sealed.files) == {"config.json", "model/unet/w.safetensors"}
    # sha256sum's own answer for the seven bytes "weights"
    digest = "9a129038d9a00aed0cf6a7ea059ca50a813449061ab87848cf1a13eafdf33b2c"
    assert sealed.files["model/unet/w.safetensors"] == {"sha256": digest, "size": 7}
    assert sealed.steps[0].config == {"steps": 3, "out": "runs/a"}
    assert artifact.versions("no-such-package")["no-such-package"] == "not installed"


def test_extra_files_and_changes_in_excluded_folders_are_ignored(tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / "notes.txt").write_text("mine")
    (tmp_path / "a" / "checkpoint" / "state").write_text("changed")
    read(tmp_path / "a")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "model/unet/w.safetensors").write_text("Weights"), "w.safetensors: its sha256 is not"),
        (lambda f: (f / "model/unet/w.safetensors").write_text("weight"), "w.safetensors: 6 bytes, but manifest.json says 7"),
        (lambda f: (f / "config.json").unlink(), "config.json: missing, but listed"),
        (lambda f: (f / "manifest.json").unlink(), "not finished: no manifest.json"),
        (lambda f: (f / "manifest.json").write_text("{"), "not valid JSON"),
        (lambda f: (f / "manifest.json").write_text("[]"), "schema version None"),
        (lambda f: (f / "manifest.json").write_bytes(b"\xff"), "not valid JSON"),
    ],
)
def test_damage_is_named(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    make(tmp_path / "a")
    damage(tmp_path / "a")
    with pytest.raises(ArtifactError, match=message):
        read(tmp_path / "a")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"schema_version": 2}, "schema version 2, but this EdgeSafe reads 1"),
        ({"colour": "red"}, "unknown entry 'colour'"),
        ({"kind": "recipe"}, "kind 'recipe'; known: run, export"),
        ({"steps": {}}, "'steps' is not a list"),
        ({"steps": [{"stage": "train"}]}, "a step lacks 'config'"),
        ({"files": {"a": {"size": 1}}}, "'a' needs sha256 and size"),
        ({"files": {"../a": {"size": 1, "sha256": ""}}}, "'../a' leads out of the folder"),
        ({"files": {"/etc/passwd": {"size": 1, "sha256": ""}}}, "'/etc/passwd' leads out"),
        ({"files": {"a\\..\\b": {"size": 1, "sha256": ""}}}, "leads out"),
        ({"files": {"link/passwd": {"size": 1, "sha256": ""}}}, "'link/passwd' leads out"),
        ({"files": {"": {"size": 1, "sha256": ""}}}, "leads out"),
    ],
)
@pytest.mark.parametrize("verify", [True, False])
def test_a_wrong_manifest_is_refused(entry: dict, message: str, verify: bool, tmp_path: Path) -> None:
    make(tmp_path / "a")
    (tmp_path / "a" / "link").symlink_to("/etc")
    path = tmp_path / "a" / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entry))
    with pytest.raises(ArtifactError, match="manifest.json: ") as caught:
        read(tmp_path / "a", verify)
    assert message in str(caught.value)


def test_a_lacking_entry_is_named(tmp_path: Path) -> None:
    make(tmp_path / "a")
    path = tmp_path / "a" / "manifest.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "control"}))
    with pytest.raises(ArtifactError, match="the manifest lacks 'control'"):
        read(tmp_path / "a")


def test_a_link_out_of_the_folder_is_not_sealed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("x")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ArtifactError, match="'link' leads out"):
        seal(tmp_path / "a", EMPTY)
    assert not (tmp_path / "a" / "manifest.json").exists()


def test_newest_is_the_last_sealed_of_its_kind(tmp_path: Path) -> None:
    for index, (name, kind) in enumerate([("b", "run"), ("a", "run"), ("c", "export"), (".d.part", "run")]):
        make(tmp_path / name, kind=kind)
        os.utime(tmp_path / name / "manifest.json", ns=(index, index))
    assert newest("run", tmp_path) == tmp_path / "a"
    assert newest("export", tmp_path) == tmp_path / "c"


def test_newest_names_what_is_unfinished(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no finished run under .*nowhere/. Make one with `edgesafe train`"):
        newest("run", tmp_path / "nowhere")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"Not finished: .*half\. Make one with `edgesafe train`"):
        newest("run", tmp_path)


def fill(folder: Path, text: str) -> None:
    (folder / "unet").mkdir()
    (folder / "unet" / "model.onnx").write_text(text)
    seal(folder, replace(EMPTY, kind="export"))


def text_of(folder: Path) -> str:
    read(folder)
    return (folder / "unet" / "model.onnx").read_text()


def test_staged_appears_whole_and_replaces_only_when_forced(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with staged(out) as folder:
        assert folder.parent == out.parent and not out.exists()
        fill(folder, "one")
    with pytest.raises(ArtifactError, match="out exists. Give another --out, or --force"), staged(out):
        pytest.fail("work began although the folder exists")
    with staged(out, force=True) as folder:
        fill(folder, "two")
        assert text_of(out) == "one"
    assert text_of(out) == "two"
    assert [path.name for path in out.parent.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_inside_leaves_the_former_folder_alone(error: type[BaseException], tmp_path: Path) -> None:
    with staged(tmp_path / "out") as folder:
        fill(folder, "one")
    with pytest.raises(error), staged(tmp_path / "out", force=True) as folder:
        (folder / "half").write_text("x")
        raise error
    assert text_of(tmp_path / "out") == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_force_does_not_delete_what_edgesafe_did_not_make(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    (tmp_path / "file").write_text("x")
    for name in ("photos", "file"):
        with pytest.raises(ArtifactError, match=f"{name} was not made by edgesafe"), staged(tmp_path / name, force=True):
            pytest.fail("work began")
    (tmp_path / "empty").mkdir()
    with staged(tmp_path / "empty", force=True) as folder:
        fill(folder, "one")


def test_two_commands_do_not_write_the_same_folder(tmp_path: Path) -> None:
    with staged(tmp_path / "out") as folder:
        with pytest.raises(ArtifactError, match="is being written by another edgesafe command"), staged(tmp_path / "out"):
            pytest.fail("work began")
        fill(folder, "one")
    assert text_of(tmp_path / "out") == "one"


KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_artifact import fill
from edgesafe.artifact import staged
root, left = {root!r}, [int(sys.argv[1])]
def hook(event, arguments):
    if arguments and isinstance(arguments[0], (str, os.PathLike)) and os.fspath(arguments[0]).startswith(root):
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(hook)
with staged(Path(root) / "out", force=True) as folder:
    fill(folder, "new")
"""


def test_a_kill_at_any_moment_leaves_a_whole_folder(tmp_path: Path) -> None:
    """The process is killed before each file operation in turn; the next command finds the old folder or the new one, and cleans up."""
    out, seen, step = tmp_path / "out", set(), 0
    script = KILLED.format(tests=str(Path(__file__).parent), root=str(tmp_path))
    with staged(out) as folder:
        fill(folder, "old")
    while True:
        child = subprocess.run([sys.executable, "-c", script, str(step)], capture_output=True, text=True, check=False)
        assert child.returncode in (0, -9), child.stderr
        if child.returncode == 0:
            break
        with pytest.raises(ZeroDivisionError), staged(out, force=True):
            seen.add(text_of(out))
            raise ZeroDivisionError  # a command that fails: cleans up, changes nothing
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        step += 1
    assert text_of(out) == "new"
    assert seen == {"old", "new"} and step > 20


def failing(real: Callable, at: int, calls: list[int], code: int) -> Callable:
    def wrapper(*args: object, **kwargs: object) -> object:
        calls[0] += 1
        if calls[0] == at:
            raise OSError(code, os.strerror(code))
        return real(*args, **kwargs)

    return wrapper


def test_a_full_disk_at_any_write_is_named_and_leaves_the_former_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, at = tmp_path / "out", 0
    with staged(out) as folder:
        fill(folder, "old")
    while True:
        at, calls = at + 1, [0]
        with monkeypatch.context() as patch:
            for owner, name in ((os, "fsync"), (os, "replace"), (os, "rename"), (Path, "mkdir"), (Path, "write_text")):
                patch.setattr(owner, name, failing(getattr(owner, name), at, calls, errno.ENOSPC))
            try:
                with staged(out, force=True) as folder:
                    fill(folder, "new")
            except ArtifactError as error:
                assert str(out) in str(error) and "the disk is full" in str(error)
            else:
                break
        assert text_of(out) in ("old", "new")
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert at > 10 and text_of(out) == "new"


def test_a_full_disk_while_sealing_a_run_leaves_it_unfinished_and_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights").write_text("x")
    monkeypatch.setattr(os, "replace", failing(os.replace, 1, [0], errno.ENOSPC))
    with pytest.raises(ArtifactError, match="the disk is full"):
        seal(tmp_path, EMPTY)
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


def test_safetensors_own_full_disk_error_is_recognised(tmp_path: Path) -> None:
    from safetensors import SafetensorError

    with pytest.raises(ArtifactError, match="out: the disk is full"), staged(tmp_path / "out"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
