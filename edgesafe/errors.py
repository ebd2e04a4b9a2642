"""What a user can cause. The command line prints the message without a traceback and exits with `exit_code`."""

import errno
from types import TracebackType

NO_MEMORY = ("out of memory", "not enough memory", "t allocate memory", "cannot allocate", "failed to allocate", "bad alloc", "bad_alloc")


class EdgeSafeError(Exception):
    """Says what was found, what is needed and what to do, and names the flag, file or tensor."""

    exit_code = 2


class ArtifactError(EdgeSafeError):
    """A run or export that cannot be read or written: unfinished, damaged, of another version, or in the way."""


class FullDisk(ArtifactError):
    """No space is left where the message says."""

    def __init__(self, place: object, doing: str | None = None) -> None:
        while_doing = f" while {doing}" if doing else ""
        super().__init__(f"{place}: the disk is full{while_doing}. Free some space and run the command again")
        self.doing = doing  # "writing unet"


class OutOfMemory(EdgeSafeError):
    """Memory ran out; the message says at what."""


class Stopped(EdgeSafeError):
    """The user stopped a command that knows how it can be resumed; its message says how."""

    exit_code = 130


def first_line(error: BaseException) -> str:
    """What another library says, short enough for our own message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def is_full_disk(error: BaseException) -> bool:
    """True for "no space left" and "quota exceeded", also from safetensors, which wraps the system's error in its own."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"os error {errno.ENOSPC})" in str(error) or f"os error {errno.EDQUOT})" in str(error)


def is_out_of_memory(error: BaseException) -> bool:
    """True for MemoryError, and for what torch, onnxruntime, OpenVINO and coremltools raise in its place."""
    text = str(error).lower()
    foreign = isinstance(error, Exception) and not isinstance(error, EdgeSafeError)
    return isinstance(error, MemoryError) or (foreign and any(words in text for words in NO_MEMORY))


class NamingFullDisk:
    """`with NamingFullDisk(out):` turns a full disk, whichever library meets it, into a FullDisk error that names `out`.

    Without a path it names the file that could not be written, where the library tells.
    """

    def __init__(self, path: object = None) -> None:
        self.path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        named = isinstance(error, FullDisk) and self.path is None
        if error is not None and not named and (isinstance(error, FullDisk) or is_full_disk(error)):
            place = self.path or getattr(error, "filename", None) or "writing"
            raise FullDisk(place, getattr(error, "doing", None)) from error
