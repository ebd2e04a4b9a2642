"""After OpenVINO has compiled and freed models, a signal still reaches its handler; with a Core for each model it kills the process."""

import subprocess
import sys

import pytest

CODE = """
import faulthandler; faulthandler.enable()
import gc, os, signal
import numpy as np
from edgesafe import intel
ov = intel.openvino()

def compiled(core):
    x = ov.opset13.parameter([2, 4], np.float32)
    return [core, core.compile_model(ov.Model([ov.opset13.relu(x)], [x], "m"), "CPU")]

first, second = compiled(CORE), compiled(CORE)
while first:
    first.pop()
gc.collect()
while second:
    second.pop()
gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGINT)
"""


def ended(core: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, "-c", CODE.replace("CORE", core)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.openvino
def test_a_signal_after_openvino_is_handled() -> None:
    assert ended("intel.core()") == (0, "handled\n")
