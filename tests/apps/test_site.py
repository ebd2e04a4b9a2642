"""The web app in the package: whole, small, its WebAssembly unpacked to what npm has, and told when it is missing or damaged."""

import json
import re
from pathlib import Path

import pytest

from edgesafe.apps import site
from edgesafe.errors import EdgeSafeError


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    site.write(folder)
    return folder


def test_a_site_is_whole(written: Path) -> None:
    page = (written / "index.html").read_text()
    linked = [name for name in re.findall(r'(?:src|href)="\./([^"#]+)"', page)]
    assert len(linked) >= 4 and all((written / name).is_file() for name in linked)
    for path in (written / "ort").glob("*.mjs"):
        assert path.with_suffix(".wasm").read_bytes()[:8] == b"\0asm\1\0\0\0"
    assert len(list((written / "ort").glob("*.wasm"))) == len(list((written / "ort").glob("*.mjs"))) == 2
    icons = json.loads((written / "manifest.webmanifest").read_text())["icons"]
    assert all((written / icon["src"]).is_file() for icon in icons)


def test_the_service_worker_knows_each_file_that_is_there(written: Path) -> None:
    worker = (written / "sw.js").read_text()
    kept = [path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()]
    kept = [name for name in kept if not name.endswith(".wasm") and name not in ("sw.js", ".nojekyll", "build.json")]
    assert all(name in worker for name in kept)
    named = set(re.findall(r"(?:assets|ort)/[\w.-]+\.(?:js|css|mjs)", worker))
    assert named <= set(kept), "a file that is not there would stop it from being installed"


def test_nothing_is_fetched_from_elsewhere(written: Path) -> None:
    policy = re.search(r'http-equiv="Content-Security-Policy"\s+content="([^"]+)"', (written / "index.html").read_text())
    assert policy is not None and "default-src 'none'" in policy[1] and "http" not in policy[1]
    page = (written / "index.html").read_text()
    assert not re.findall(r'(?:src|href)="(?:https?:)?//', page)


def test_only_the_benchmark_asks_for_its_page(tmp_path: Path) -> None:
    plain, bench = {name for name, _ in site.files()}, {name for name, _ in site.files(bench=True)}
    assert plain <= bench and all(name.startswith(site.BENCH) for name in bench - plain)


def test_the_package_stays_small() -> None:
    assert sum(path.stat().st_size for _, path in site.files(bench=True)) < 7 * 2**20


def test_a_package_without_the_site_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site, "PAGES", tmp_path / "site")
    with pytest.raises(EdgeSafeError, match=r"site/index.html: not there: this edgesafe has no built web app. Install .* scripts/web"):
        site.write(tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(site, "RUNTIME", tmp_path)
    with pytest.raises(EdgeSafeError, match=r"\*.wasm.xz: not there"):
        site.write(tmp_path / "out")
    (tmp_path / "x.wasm.xz").write_bytes(b"no xz")
    with pytest.raises(EdgeSafeError, match=r"x.wasm.xz: cannot be unpacked .* the file is damaged. Install edgesafe again"):
        site.write(tmp_path / "out")
