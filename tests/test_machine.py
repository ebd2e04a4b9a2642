"""What a report says of the computer."""

import pytest

from edgesafe import machine


def test_processor_features_of_a_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = "hw.optional.arm.FEAT_I8MM: 1\nhw.optional.neon: 1\nhw.optional.avx2_0: 0\n"
    told = {("-n", "machdep.cpu.brand_string"): "Apple M3\n", ("hw.optional",): flags}
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    monkeypatch.setattr(machine.Path, "is_file", lambda self: False)
    monkeypatch.setattr(machine, "_sysctl", lambda *arguments: told[arguments])
    assert machine.cpu() == ("Apple M3", ["neon", "i8mm"])
