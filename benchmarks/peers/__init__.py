"""What others do with the same model.

PEERS draw like a Runtime: from the same latents, so that their pictures compare pixel by pixel with ours. Exporters run as processes of
their own: `python -m edgesafe.benchmarks.peers.<name> MODEL FOLDER`.
"""

from ..runtimes.runtime import Runtime
from .diffusers_pipeline import DiffusersPipeline
from .optimum_pipeline import OptimumPipeline

PEERS: dict[str, type[Runtime]] = {"optimum": OptimumPipeline, "diffusers": DiffusersPipeline}
