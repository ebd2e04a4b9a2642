"""Evaluates saved Core ML programs (`.mlpackage`) with torch, on any machine.

`load(package)` reads the specification and memory-maps the weights; the Program it returns is called with tensors. Adding an operation =
one function in ops/ and one line in that file's OPERATIONS.
"""

from .program import PROVES, Constant, Declared, Program, load

__all__ = ["PROVES", "Constant", "Declared", "Program", "load"]
