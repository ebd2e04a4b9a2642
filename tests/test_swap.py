"""Two folders change places in one step, or nothing changes."""

import sys
from pathlib import Path

import pytest

from edgesafe import swap


def folders(place: Path) -> tuple[Path, Path]:
    for name in ("one", "other"):
        (place / name).mkdir()
        (place / name / "file").write_text(name)
    return place / "one", place / "other"


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="neither Linux nor macOS")
def test_folders_change_places(tmp_path: Path) -> None:
    one, other = folders(tmp_path)
    if not swap.exchange(one, other):
        pytest.skip("this file system cannot exchange folders")
    assert ((one / "file").read_text(), (other / "file").read_text()) == ("other", "one")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other"]


def test_what_is_not_there_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    one, _ = folders(tmp_path)
    with pytest.raises(OSError, match="No such file"):
        swap.exchange(one, tmp_path / "nowhere")
    assert (one / "file").read_text() == "one"


def test_a_system_without_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = folders(tmp_path)
    monkeypatch.setattr(swap.sys, "platform", "win32")
    assert swap.exchange(one, other) is False
    assert (one / "file").read_text() == "one"
