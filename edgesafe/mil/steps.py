"""A specification's operations as steps to run: a function, where its arguments come from, and what it declares to give."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from edgesafe.errors import EdgeSafeError

from . import constexpr, values
from .datatypes import Kind
from .ops import OPERATIONS
from .package import Package
from .values import Computed, Stored, Value

AGAIN = "The package is damaged: export the model again"


@dataclass(frozen=True)
class Port:
    """A value's name and what the program declares it to be; a size of -1 is not fixed."""

    name: str
    kind: Kind
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    operation: str
    function: Callable[..., Any]
    tensors: Mapping[str, str | tuple[str, ...]]  # parameter -> names of values
    plain: Mapping[str, Any]  # parameter -> Python value
    late: Mapping[str, str]  # parameter -> name of a value that becomes a Python value when the step runs
    outputs: tuple[Port, ...]

    @property
    def reads(self) -> frozenset[str]:
        names = [name for given in self.tensors.values() for name in (given if isinstance(given, tuple) else (given,))]
        return frozenset((*names, *self.late.values()))


def read(package: Package, block: Any) -> tuple[list[Step], dict[str, Value]]:
    """(steps in order, every constant by name). Raises: EdgeSafeError naming the first operation that is not known, and its output."""
    steps: list[Step] = []
    constants: dict[str, Value] = {}
    for operation in block.operations:
        outputs = tuple(Port(out.name, *values.declared(package, out.type, f"the tensor {out.name}")) for out in operation.outputs)
        if operation.type == "const":
            constants[outputs[0].name] = values.read(package, operation.attributes["val"], f"the tensor {outputs[0].name}")
        elif operation.type.startswith("constexpr_"):
            constants.update(_expression(package, operation, outputs, constants))
        else:
            steps.append(_step(package, operation, outputs, constants))
    return steps, constants


def _step(package: Package, operation: Any, outputs: tuple[Port, ...], constants: Mapping[str, Value]) -> Step:
    function = OPERATIONS.get(operation.type)
    if function is None:
        raise _unknown(package, operation)
    parameters = inspect.signature(function).parameters
    tensors: dict[str, str | tuple[str, ...]] = {}
    plain: dict[str, Any] = {}
    late: dict[str, str] = {}
    for parameter, argument in operation.inputs.items():
        if parameter not in parameters:
            what = f"has a parameter {parameter!r} that the evaluator does not know; known: {', '.join(parameters)}"
            raise EdgeSafeError(f"{package.path}: {_called(operation)} {what}")
        names = tuple(binding.name for binding in argument.arguments)
        if parameters[parameter].kind is not inspect.Parameter.KEYWORD_ONLY:
            tensors[parameter] = names if parameter == "values" else names[0]
        elif names[0] in constants:
            plain[parameter] = constants[names[0]].array().tolist()
        else:
            late[parameter] = names[0]
    given = {*tensors, *plain, *late}
    for name, parameter in parameters.items():
        if parameter.default is inspect.Parameter.empty and name not in given:
            raise EdgeSafeError(f"{package.path}: {_called(operation)} lacks its parameter {name!r}. {AGAIN}")
    return Step(operation.type, function, tensors, plain, late, outputs)


def _expression(package: Package, operation: Any, outputs: tuple[Port, ...], constants: Mapping[str, Value]) -> dict[str, Value]:
    if operation.type not in constexpr.OPERATIONS:
        raise _unknown(package, operation)
    what = f"a part of the tensor {outputs[0].name}"
    inputs: dict[str, Value] = {}
    for name, value in operation.attributes.items():  # iOS 16 and 17
        if name != "name":
            inputs[name] = values.read(package, value, what)
    for name, argument in operation.inputs.items():  # iOS 18
        binding = argument.arguments[0]
        inputs[name] = constants[binding.name] if binding.WhichOneof("binding") == "name" else values.read(package, binding.value, what)
    known = inspect.signature(constexpr.OPERATIONS[operation.type]).parameters
    if unknown := set(inputs) - set(known):
        what = f"has parameters that the evaluator does not know: {', '.join(sorted(unknown))}"
        raise EdgeSafeError(f"{package.path}: {_called(operation)} {what}")
    return {port.name: Computed(port.kind, port.shape, operation.type, inputs, i) for i, port in enumerate(outputs)}


def _unknown(package: Package, operation: Any) -> EdgeSafeError:
    return EdgeSafeError(f"{package.path}: {_called(operation)} is an operation that the evaluator does not know")


def _called(operation: Any) -> str:
    return f"{operation.type} (of the tensor {operation.outputs[0].name if operation.outputs else '?'})"


def is_weight(value: Value) -> bool:
    """Long enough to stand in a weight file, or compressed; and floating."""
    return value.kind.floating and (isinstance(value, Computed) or (isinstance(value, Stored) and value.in_file))
