"""The web app as files: the built pages from the package, and the WebAssembly of onnxruntime-web, unpacked beside them.

    index.html, bench.html     the sticker maker; the page that a browser is measured with, which a bundle leaves out
    assets/, icons, sw.js      scripts and styles by hashed names, and the service worker that keeps them for offline use
    ort/*.mjs, ort/*.wasm      onnxruntime-web's loaders as npm has them; packed with xz in the package, as they are in a site
    model/, plan/              the plain bundle, and its UNet cut for the page: whoever writes a site puts them there

`npm run build` in apps/web makes the pages; users of the package need no Node.
"""

import json
import lzma
import shutil
from collections.abc import Iterator
from pathlib import Path

from edgesafe.artifact import Manifest
from edgesafe.errors import EdgeSafeError

PAGES, RUNTIME = Path(__file__).parent / "web" / "site", Path(__file__).parent / "web" / "ort"
MODEL = "model"  # the folder of a site that the page loads
TARGET, PIPELINE = "onnx", "StableDiffusionPipeline"  # what src/engine draws with
BENCH = ("bench.html", "assets/bench")  # what belongs to the benchmark's page alone; vite/service-worker.ts knows the same names
NEEDED = ("index.html", "sw.js")
MOST_MIB = 500.0  # what a phone's browser can be asked to fetch and to hold; WebAssembly ends at 4 GiB
MIB = 2**20


def files(bench: bool = False) -> Iterator[tuple[str, Path]]:
    """(name in a site, file of the package); a name without .xz whose file has it is packed. Raises: EdgeSafeError where none is built."""
    missing = [name for name in NEEDED if not (PAGES / name).is_file()]
    packed = sorted(RUNTIME.glob("*.wasm.xz"))
    if missing or not packed:
        lacks = f"{PAGES / missing[0]}" if missing else f"{RUNTIME}/*.wasm.xz"
        raise EdgeSafeError(f"{lacks}: not there: this edgesafe has no built web app. Install the released package, or run scripts/web")
    for path in sorted(path for path in PAGES.rglob("*") if path.is_file()):
        name = path.relative_to(PAGES).as_posix()
        if bench or not name.startswith(BENCH):
            yield name, path
    for path in packed:
        yield f"ort/{path.name.removesuffix('.xz')}", path


def content(path: Path) -> bytes:
    """Of a file that `files` names, unpacked."""
    if path.suffix != ".xz":
        return path.read_bytes()
    try:
        return lzma.decompress(path.read_bytes())
    except lzma.LZMAError as error:
        raise EdgeSafeError(f"{path}: cannot be unpacked ({error}): the file is damaged. Install edgesafe again") from error


def write(out: Path) -> None:
    """The site, without a model, into the folder `out`."""
    for name, path in files():
        place = out / name
        place.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".xz":
            place.write_bytes(content(path))
        else:
            shutil.copyfile(path, place)
    (out / ".nojekyll").touch()  # GitHub Pages would turn model/README.md into a page of its own, and leave the file out


def check(export: Path, manifest: Manifest, most_mib: float = MOST_MIB) -> None:
    """Raises: EdgeSafeError for an export that the web app cannot draw with."""
    target = manifest.target["name"] if manifest.target else f"a {manifest.kind}"
    if target != TARGET:
        again = f"edgesafe export --target {TARGET}"
        raise EdgeSafeError(f"{export}: its target is {target}, and --app web runs {TARGET} alone. Export the run again: {again}")
    index = export / "model_index.json"
    try:
        pipeline = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EdgeSafeError(f"{index}: names no pipeline ({error}), and --app web draws with a {PIPELINE}. Export the run again") from error
    if pipeline != PIPELINE:
        raise EdgeSafeError(f"{export}: a {pipeline}, and --app web draws with a {PIPELINE} alone. Ship it as the plain folder: no --app")
    size = sum(facts["size"] for facts in manifest.files.values()) / MIB
    if size > most_mib:
        smaller = f"edgesafe export --target {TARGET} --quantize int8"
        raise EdgeSafeError(
            f"{export}: {size:.1f} MiB for a browser to fetch, over --max-mib {most_mib:g}. "
            f"Export fewer bits ({smaller}), shrink the model more, or raise --max-mib if the devices can take it"
        )


def how_to_try(out: Path, port: int = 8000) -> str:
    served = f"python -m http.server {port} --bind 127.0.0.1 --directory {out}"
    return f"Try it: {served}\nThen open http://localhost:{port}/ (any static host with https serves it to others)"
