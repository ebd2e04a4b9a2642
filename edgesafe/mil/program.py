"""A Core ML program that runs with torch: `load(package)` and then `program(half=..., **inputs)`.

In fp32 mode every float is computed in fp32. With `half`, every value that the program declares fp16 is rounded to fp16 after it is
computed in fp32; Apple's kernels may also accumulate in fp16, which no other machine can tell.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from edgesafe.errors import EdgeSafeError

from . import fusing, steps, values
from .datatypes import FP16
from .fusing import round_to_half
from .ops import EXACT
from .package import Package
from .steps import Port, Step
from .values import Value

PROVES = (
    "the saved files evaluated with torch: this proves their graph and weights, not Apple's kernels, nor speed or placement on a device"
)
DTYPES = {"fp16": torch.float16, "fp32": torch.float32}  # of inputs and outputs; the others are as they are carried


@dataclass(frozen=True)
class Declared:
    shape: tuple[int, ...]  # -1: not fixed
    dtype: torch.dtype


@dataclass(frozen=True)
class Constant:
    """A weight: kept in a weight file, or compressed."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # that the program computes with: fp16, fp32
    stored: str  # how it is kept: a data type, or a constexpr operation
    bits: int  # of one element in the file, without tables and scales
    nbytes: int  # in the file, with tables and scales
    _value: Value
    _kept: dict[str, Tensor]

    def tensor(self) -> Tensor:
        """Dequantised, fp32 (what is declared fp16 is rounded to it). Do not write to it. Kept only once the program has run."""
        kept = self._kept.get(self.name)
        return values.tensor(self._value) if kept is None else kept


class Program:
    """Made by `load`. Calls on two threads at once are fine once the first is over."""

    def __init__(
        self, package: Package, inputs: Iterable[Port], outputs: Iterable[str], plan: list[Step], constants: Mapping[str, Value]
    ) -> None:
        self.package, self._ports, self._results = package, {port.name: port for port in inputs}, tuple(outputs)
        declared = {port.name: port for step in plan for port in step.outputs} | self._ports
        if missing := [name for name in self._results if name not in declared]:
            raise EdgeSafeError(f"{package.path}: no operation computes its output {missing[0]}. The package is damaged: export it again")
        self.inputs = {name: _declared(port) for name, port in self._ports.items()}
        self.outputs = {name: _declared(declared[name]) for name in self._results}
        self._values = constants
        self._kept: dict[str, Tensor] = {}
        read = {name for step in plan for name in step.reads}
        self.constants = {
            name: Constant(name, value.shape, value.kind.name, _stored(value), value.bits, value.nbytes, value, self._kept)
            for name, value in constants.items()
            if name in read and steps.is_weight(value)
        }
        halved = {name for name, port in declared.items() if port.kind is FP16}
        halved |= {name for name, value in constants.items() if value.kind is FP16}
        self._whole = _scheduled(fusing.fuse(plan, self._results, constants, half=False), self._results, set())
        rounded = fusing.fuse(plan, self._results, constants, half=True)
        self._halved = _scheduled(rounded, self._results, halved) if halved else self._whole

    def __call__(self, half: bool = False, **inputs: Tensor) -> dict[str, Tensor]:
        """Named inputs -> named outputs, floats as fp32. Raises: EdgeSafeError for inputs and for results that are not as declared."""
        made = self._checked(inputs)
        if half:
            made = {name: round_to_half(x) if self._ports[name].kind is FP16 else x for name, x in made.items()}
        with torch.no_grad():
            for step, rounded, dead in self._halved if half else self._whole:
                self._run(step, made, rounded)
                for name in dead:
                    del made[name]
        return {name: made[name] for name in self._results}

    def replaced(self, new: Mapping[str, Tensor]) -> "Program":
        """The same program with other values for some constants; everything else is shared. Raises: EdgeSafeError."""
        for name, value in new.items():
            if name not in self.constants:
                raise EdgeSafeError(f"{self.package.name}: it has no weight named {name}")
            if tuple(value.shape) != self.constants[name].shape:
                shapes = f"{tuple(value.shape)}, needed is {self.constants[name].shape}"
                raise EdgeSafeError(f"{self.package.name}: the new value of {name} has the shape {shapes}")
        other = object.__new__(Program)
        other.__dict__.update(self.__dict__)
        other._kept = _Over({name: value.float() for name, value in new.items()}, self._kept)
        return other

    def _run(self, step: Step, made: dict[str, Tensor], rounded: bool) -> None:
        what = f"{self.package.name}: {step.operation}, tensor {step.outputs[0].name}"
        given = {key: self._given(names, made) for key, names in step.tensors.items()}
        late = {key: self._get(name, made).tolist() for key, name in step.late.items()}
        try:
            results = step.function(**given, **step.plain, **late)
        except (RuntimeError, ValueError, IndexError, TypeError, KeyError) as error:
            raise EdgeSafeError(f"{what}: it cannot be computed ({type(error).__name__}: {error})") from error
        results = results if isinstance(results, tuple) else (results,)
        if len(results) != len(step.outputs):
            raise EdgeSafeError(f"{what}: {len(results)} results are computed and {len(step.outputs)} declared")
        for port, result in zip(step.outputs, results, strict=True):
            if not _fits(result.shape, port.shape):
                raise EdgeSafeError(f"{what}: the shape {tuple(result.shape)} is computed and {port.shape} declared for {port.name}")
            if result.dtype != port.kind.carrier:
                raise EdgeSafeError(f"{what}: {result.dtype} is computed and {port.kind.name} declared for {port.name}")
            made[port.name] = round_to_half(result) if rounded and port.kind is FP16 else result

    def _given(self, names: str | tuple[str, ...], made: dict[str, Tensor]) -> Tensor | tuple[Tensor, ...]:
        return self._get(names, made) if isinstance(names, str) else tuple(self._get(name, made) for name in names)

    def _get(self, name: str, made: dict[str, Tensor]) -> Tensor:
        found = made.get(name)
        if found is None:
            found = self._kept.get(name)
        if found is None:
            value = self._values[name]
            found = self._kept[name] = values.tensor(value)
            if tuple(found.shape) != value.shape:
                shapes = f"{tuple(found.shape)}, declared is {value.shape}"
                raise EdgeSafeError(f"{self.package.name}: the constant {name} has the shape {shapes}")
        return found

    def _checked(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for names, what in ((set(self._ports) - set(inputs), "is missing"), (set(inputs) - set(self._ports), "is not one of them")):
            if names:
                takes = ", ".join(f"{name} {port.kind.name}{list(port.shape)}" for name, port in self._ports.items())
                raise EdgeSafeError(f"{self.package.name}: its inputs are {takes}; {', '.join(sorted(names))} {what}")
        made = {}
        for name, port in self._ports.items():
            x = inputs[name]
            if not _fits(x.shape, port.shape):
                raise EdgeSafeError(f"{self.package.name}: the input {name} has the shape {tuple(x.shape)}, needed is {port.shape}")
            if x.is_floating_point() != port.kind.floating:
                raise EdgeSafeError(f"{self.package.name}: the input {name} is {x.dtype}, needed is {port.kind.name}")
            made[name] = x.to(port.kind.carrier)
        return made


class _Over(dict[str, Tensor]):
    """Some values of its own over a dictionary that is shared, and filled through it."""

    def __init__(self, own: dict[str, Tensor], shared: dict[str, Tensor]) -> None:
        super().__init__(own)
        self._shared = shared

    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, default) if name in self else self._shared.get(name, default)

    def __setitem__(self, name: str, value: Tensor) -> None:
        self._shared[name] = value


def load(path: Path) -> Program:
    """Open a `.mlpackage`. Raises: EdgeSafeError, naming a damaged file, or an operation that is not known with its output tensor."""
    package = Package(Path(path))
    function = package.specification().mlProgram.functions["main"]
    block = function.block_specializations[function.opset]
    inputs = [Port(row.name, *values.declared(package, row.type, f"the input {row.name}")) for row in function.inputs]
    plan, constants = steps.read(package, block)
    known = {port.name for port in inputs} | set(constants)
    for step in plan:
        if missing := step.reads - known:
            what = f"{step.operation} (of the tensor {step.outputs[0].name}) reads {sorted(missing)[0]}"
            raise EdgeSafeError(f"{package.path}: {what}, which nothing computes before it. The package is damaged: export it again")
        known |= {port.name for port in step.outputs}
    return Program(package, inputs, block.outputs, plan, constants)


Scheduled = list[tuple[Step, bool, tuple[str, ...]]]  # with: whether to round to fp16, and the values that nobody reads later


def _scheduled(plan: list[Step], results: tuple[str, ...], halved: set[str]) -> Scheduled:
    made = {port.name for step in plan for port in step.outputs}
    seen: set[str] = set(results)
    rows: Scheduled = []
    for step in reversed(plan):
        names = {*step.reads, *(port.name for port in step.outputs)} & made
        exact = step.operation in EXACT and step.reads <= halved
        rows.append((step, bool(halved) and not exact, tuple(names - seen)))
        seen |= names
    return rows[::-1]


def _fits(shape: tuple[int, ...], declared: tuple[int, ...]) -> bool:
    return len(shape) == len(declared) and all(d in (-1, n) for n, d in zip(shape, declared, strict=True))


def _declared(port: Port) -> Declared:
    return Declared(port.shape, DTYPES.get(port.kind.name, port.kind.carrier))


def _stored(value: Value) -> str:
    return value.operation if isinstance(value, values.Computed) else value.kind.name
