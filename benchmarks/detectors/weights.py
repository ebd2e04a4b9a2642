"""Where a detector's model lies: a file or folder of the user's, or a Hugging Face id; named by its sha256."""

import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

from edgesafe import artifact
from edgesafe.errors import EdgeSafeError

FILE_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".onnx")


def find(place: str, files: Sequence[str], whose: str) -> Path:
    """The folder or file at `place`; of a hub id (owner/name, owner/name@revision) the folder that `files` were fetched to."""
    path = Path(place).expanduser()
    if path.exists():
        return path
    repo, _, revision = place.partition("@")
    if repo.count("/") != 1 or repo.startswith((".", "/", "~")) or path.suffix in FILE_SUFFIXES:
        raise EdgeSafeError(f"{whose}: {place}: no such file or folder, and not a Hugging Face id (owner/name)")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, revision=revision or None, allow_patterns=list(files)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        first = str(error).strip().split("\n")[0]
        raise EdgeSafeError(f"{whose}: {place}: no such folder, and the Hugging Face hub did not give it ({first})") from error


def safetensors(path: Path, whose: str) -> Path:
    """The one safetensors file at `path`, a file or a folder."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if len(files) == 1 and files[0].suffix == ".safetensors":
        return files[0]
    if len(files) > 1 and (path / "model.safetensors") in files:
        return path / "model.safetensors"
    pickled = [f.name for pattern in ("*.bin", "*.pt", "*.pth") for f in (path.glob(pattern) if path.is_dir() else [path])]
    found = f"it holds {pickled[0]}, and a pickle can run code when it is opened" if pickled else f"it holds {len(files)} of them"
    raise EdgeSafeError(f"{whose}: {path}: one .safetensors file is needed; {found}. Convert it where you trust it")


@cache
def sha256(path: Path) -> str:
    return artifact.sha256(path)


def pinned(path: Path, expected: str, whose: str) -> str:
    """The file's sha256; refused if it is another than `expected`."""
    found = sha256(path)
    if found != expected:
        raise EdgeSafeError(
            f"{whose}: {path}: its sha256 is {found}, needed is {expected}. Another file gives other figures: put the right one there"
        )
    return found


def session(path: Path) -> Any:
    """An onnxruntime session on the CPU."""
    import onnxruntime
    from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidGraph, InvalidProtobuf, NotImplemented

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (Fail, InvalidGraph, InvalidProtobuf, NotImplemented) as error:
        raise EdgeSafeError(f"{path}: onnxruntime cannot read it ({str(error).strip()})") from error


def number(settings: Mapping[str, str], key: str, default: float, low: float, high: float, whose: str) -> float:
    text = settings.get(key)
    try:
        value = default if text is None else float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise EdgeSafeError(f"{whose}: setting {key} = {text!r}: a number from {low:g} to {high:g} is needed")
    return value


def table(path: Path, whose: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EdgeSafeError(f"{whose}: {path}: not readable as TOML ({error})") from error
