"""Put one folder in another's place in a single step, so that no moment has neither: Linux's renameat2, macOS's renamex_np."""

import ctypes
import errno
import os
import sys
from pathlib import Path

AT_FDCWD, LINUX_EXCHANGE, MACOS_SWAP = -100, 2, 2
NOT_HERE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM)  # this file system or kernel cannot


def exchange(one: Path, other: Path) -> bool:
    """Both must exist; False where the system cannot, and then nothing changed. Raises: OSError for any other failure."""
    names = os.fsencode(one), os.fsencode(other)
    system = ctypes.CDLL(None, use_errno=True)
    if sys.platform == "linux" and hasattr(system, "renameat2"):
        failed = system.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], LINUX_EXCHANGE)
    elif sys.platform == "darwin" and hasattr(system, "renamex_np"):
        failed = system.renamex_np(*names, MACOS_SWAP)
    else:
        return False
    code = ctypes.get_errno()
    if failed and code not in NOT_HERE:
        raise OSError(code, os.strerror(code), str(one), None, str(other))
    return not failed
