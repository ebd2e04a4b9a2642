"""Small programs built with coremltools, saved and read again."""

import contextlib
import io
import itertools
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edgesafe import mil

Build = Callable[..., Any]  # MIL variables -> MIL variables, with coremltools' builder


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """coremltools draws bars, and leaves temporary folders behind, of which Python warns."""
    for name in ("coremltools", "coremltools.converters"):
        logging.getLogger(name).setLevel(logging.ERROR)  # it warns of every torch newer than the last it was tried with
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


class Saver:
    """`saver(build, x=array, ...)` -> the saved package of a program with these inputs, as it was built: no pass of coremltools' runs."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._count = folder, itertools.count()

    def __call__(self, build: Build, target: str = "iOS16", passes: Any = None, **inputs: np.ndarray) -> Path:
        return self.save(self.convert(build, target, passes, **inputs))

    def convert(self, build: Build, target: str = "iOS16", passes: Any = None, **inputs: np.ndarray) -> Any:
        with quiet():
            import coremltools as ct
            from coremltools.converters.mil import Builder as mb

            return self._convert(ct, mb, build, target, passes, inputs)

    @staticmethod
    def _convert(ct: Any, mb: Any, build: Build, target: str, passes: Any, inputs: dict[str, np.ndarray]) -> Any:
        specs = [mb.TensorSpec(shape=x.shape, dtype=_type(x)) for x in inputs.values()]
        program = mb.program(input_specs=specs, opset_version=getattr(ct.target, target))(_named(build, tuple(inputs)))
        return ct.convert(
            program,
            convert_to="mlprogram",
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.EMPTY if passes is None else passes,
            skip_model_load=True,
        )

    def save(self, model: Any) -> Path:
        path = self.folder / f"p{next(self._count)}.mlpackage"
        model.save(str(path))
        return path


def _type(x: np.ndarray) -> Any:
    from coremltools.converters.mil.mil import types

    return {"float32": types.fp32, "float16": types.fp16, "int32": types.int32}[x.dtype.name]


def _named(build: Build, names: tuple[str, ...]) -> Build:
    """A function whose arguments have these names, which the builder reads from its signature."""
    made: dict[str, Any] = {}
    exec(f"def prog({', '.join(names)}): return build({', '.join(names)})", {"build": build}, made)
    return made["prog"]


@pytest.fixture(scope="session")
def saver(tmp_path_factory: pytest.TempPathFactory) -> Saver:
    return Saver(tmp_path_factory.mktemp("mil"))


@pytest.fixture(scope="session")
def hush() -> Callable[[], Any]:
    return quiet


@pytest.fixture(scope="session")
def evaluate(saver: Saver) -> Callable[..., list[Tensor]]:
    """`evaluate(build, x=array)` -> what the evaluator gives for the saved program, in order."""

    def run(build: Build, target: str = "iOS16", half: bool = False, **inputs: np.ndarray) -> list[Tensor]:
        program = mil.load(saver(build, target, **inputs))
        made = program(half=half, **{name: torch.from_numpy(x) for name, x in inputs.items()})
        return list(made.values())

    return run
