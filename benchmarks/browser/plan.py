"""The UNet cut for a browser: one row of a batch, and what depends on the prompt or on the timestep alone is computed once.

    plan/plan.json                     the sha256 of the UNet that it was cut from, and of the files beside it
    plan/{main,given,timed}.onnx       runtimes/specialise.py's graphs, with convolutions.py's products; of the weights they hold only
                                       where in the export's own file they lie, so that nothing is fetched twice

Guidance's two rows are computed side by side, each on cores of its own: threads that work on one row wait for each other at every node,
and there are hundreds of small ones. Where there is no plan the page draws with the UNet as it was exported.
"""

import json
from pathlib import Path

from edgesafe import artifact
from edgesafe.artifact import Manifest
from edgesafe.errors import EdgeSafeError

from ..runtimes import onnx_file
from ..runtimes.specialise import SAMPLE, TIMESTEP, specialise
from .convolutions import as_products

FOLDER, PLAN, SCHEMA_VERSION = "plan", "plan.json", 1
UNET, TOKENIZER = "unet/model.onnx", "tokenizer/tokenizer_config.json"
GRAPHS = ("main", "given", "timed")


def write(export: Path, manifest: Manifest, site: Path) -> list[str]:
    """Into the folder `site`; returns the files' names there.

    An export of a fixed batch of several, or whose graph cannot be cut, gets a plan without graphs.

    Raises: EdgeSafeError for a file that is no UNet.
    """
    out = site / FOLDER
    out.mkdir(parents=True)
    for name, graph in _graphs(export).items():
        (out / f"{name}.onnx").write_bytes(graph)
    files = {path.name: {"sha256": artifact.sha256(path), "size": path.stat().st_size} for path in sorted(out.glob("*.onnx"))}
    record = {"schema_version": SCHEMA_VERSION, "of": manifest.files[UNET]["sha256"], "files": files}
    (out / PLAN).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return [f"{FOLDER}/{name}" for name in (PLAN, *files)]


def _graphs(export: Path) -> dict[str, bytes]:
    """Of those in GRAPHS that there is something to compute in."""
    from ..runtimes.layout_runtime import latent_shape, read_json

    try:
        model = onnx_file.read(export / UNET)
    except ValueError as error:
        raise EdgeSafeError(f"{export / UNET}: {error}. Export the run again") from error
    ports = {value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in model.graph.input}
    tokens = int(read_json(export / TOKENIZER)["model_max_length"])
    given = [name for name in ports if name not in (SAMPLE, TIMESTEP)]
    if ports[SAMPLE][0] > 1 or len(given) != 1:
        return {}
    latents = latent_shape(read_json(export / "unet" / "config.json"))
    sizes = {SAMPLE: (1, *latents), TIMESTEP: (), given[0]: (1, tokens, ports[given[0]][-1])}
    cut = specialise(model, sizes, shared=False)
    if cut.given is None:
        return {}
    return {name: as_products(graph).SerializeToString() for name in GRAPHS if (graph := getattr(cut, name)) is not None}
