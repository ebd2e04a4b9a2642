"""An export below the gate: refused with the dB, the narrowest width that passes named, or kept for a reason; options of every target."""

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from edgesafe import artifact, model
from edgesafe.errors import EdgeSafeError
from edgesafe.export import TARGETS, ExportConfig, gate, onnx, parity, run
from edgesafe.export.compression import Compression
from edgesafe.export.run import plan
from edgesafe.export.verify import VerifyConfig, verify

QUIET = Console(quiet=True)
OPTIONS = {
    "batch": (1, "--batch"),
    "deployment": ("iOS18", "--deployment"),
    "vae_encoder": (True, "--vae-encoder"),
    "chunked": (True, "--chunked"),
    "attention": ("split-einsum", "--attention"),
    "static": (True, "--static"),
    "palettize": (6, "--palettize"),
    "quantize": ("int8", "--quantize"),
    "mixed": ("40dB", "--mixed"),
    "precision": ("fp16", "--precision"),
    "height": (128, "--height"),
    "width": (128, "--width"),
}


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("target", TARGETS)
def test_each_option_is_taken_or_refused_by_name(target: str, option: str, tiny_sd1: Path) -> None:
    value, flag = OPTIONS[option]
    loaded, kind = model.sketch(tiny_sd1), TARGETS[target]
    plain = {"precision": "fp32"} if option == "precision" else {}
    without = plan(kind, ExportConfig(target=target, **plain), loaded)
    try:
        taken = plan(kind, ExportConfig(target=target, **{option: value}), loaded)
    except EdgeSafeError as error:
        assert str(error).startswith(flag)
    else:
        assert taken != without


@pytest.mark.parametrize("target", TARGETS)
def test_a_scheduler_of_ones_own_is_refused_where_it_says_nothing(target: str, tiny_sd2: Path) -> None:
    loaded, kind = model.sketch(tiny_sd2), TARGETS[target]
    if target == "coreml":
        with pytest.raises(EdgeSafeError, match="the model predicts v_prediction; .* say so with --own-scheduler"):
            plan(kind, ExportConfig(target=target), loaded)
        plan(kind, ExportConfig(target=target, own_scheduler=True), loaded)
    else:
        with pytest.raises(EdgeSafeError, match="--own-scheduler is for --target coreml"):
            plan(kind, ExportConfig(target=target, own_scheduler=True), loaded)
        plan(kind, ExportConfig(target=target), loaded)


def test_what_cannot_be_is_refused_before_weights_are_read(tiny_sd2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(*_: object) -> None:
        raise AssertionError("weights were read")

    monkeypatch.setattr(model, "load", loaded)
    for asked in ({"width": 60, "own_scheduler": True}, {}, {"static": True, "own_scheduler": True}):
        with pytest.raises(EdgeSafeError):
            run(ExportConfig(str(tiny_sd2), "coreml", out=tmp_path / "out", **asked), QUIET)
    assert not list(tmp_path.iterdir())


def test_a_width_that_fails_names_the_narrowest_that_passes(mini: Path, tmp_path: Path) -> None:
    asked = {"target": "coreml", "palettize": 4, "parity_steps": 1, "gate_db": 30.0, "out": tmp_path / "out"}
    with pytest.raises(EdgeSafeError) as caught:
        run(ExportConfig(str(mini), **asked), QUIET)
    text = str(caught.value)
    assert "text_encoder 2" in text and "at least 30 dB is needed. Nothing was written" in text
    assert "The narrowest that passes: --palettize 6 (text_encoder 3" in text and '--allow-loss "the reason"' in text
    assert not list(tmp_path.iterdir())


def test_a_loss_is_kept_for_a_reason_that_the_manifest_holds(mini: Path, tmp_path: Path) -> None:
    asked = {"parity_steps": 1, "gate_db": 200.0, "out": tmp_path / "out"}  # more than fp32 can reach
    with pytest.raises(EdgeSafeError, match="unet 1.*at least 200 dB is needed. Nothing was written.*please report it"):
        run(ExportConfig(str(mini), **asked), QUIET)
    assert not list(tmp_path.iterdir())
    console = Console(record=True, file=io.StringIO(), width=300)
    made = artifact.read(run(ExportConfig(str(mini), **asked, allow_loss="for a test"), console))
    allowed = made.parity["allowed_loss"]
    assert allowed["reason"] == "for a test" and allowed["gate_db"] == made.parity["gate_psnr_db"] == 200
    assert set(allowed["psnr_db"]) == set(made.parity["components"]) and "Reason given: for a test" in console.export_text()
    console = Console(record=True, file=io.StringIO(), width=300)
    assert verify(VerifyConfig(tmp_path / "out"), console)["passed"] and "Reason given: for a test" in console.export_text()


def test_nothing_passes_where_uncompressed_parts_fail() -> None:
    target = TARGETS["coreml"]("fp16", 64, 64, 2, "iOS17", False, Compression("palettize", 4))
    refused = gate.refusal({"vae_decoder": 20.0}, 35.0, target, None)
    assert (
        refused.startswith("the exported files do not compute what torch computes: vae_decoder 20.0 dB")
        and "Try --precision fp32" in refused
    )
    assert "leave out --palettize 4" in gate.refusal({"unet": 20.0}, 35.0, target, None)


@pytest.mark.parametrize(
    ("compression", "flag"),
    [
        (Compression("palettize", 6), "--palettize 6"),
        (Compression("quantize", 8), "--quantize int8"),
        (Compression("mixed", goal=(40.0, "dB")), "--mixed 40dB"),
    ],
)
def test_widths_are_named_as_the_command_line_takes_them(compression: Compression, flag: str) -> None:
    assert gate.flag(compression) == flag


def test_the_worse_of_two_runtimes_counts() -> None:
    rows = {"components": {"unet": {"psnr_db": 40.0}, "vae_decoder": {"psnr_db": 34.0}}}
    assert gate.below(rows, 35) == {"vae_decoder": 34.0}
    assert gate.below(rows | {"native": {"components": {"unet": {"psnr_db": 30.0}, "vae_decoder": {"psnr_db": 36.0}}}}, 35) == {
        "vae_decoder": 34.0,
        "unet": 30.0,
    }


def test_an_export_that_differs_is_refused_with_the_decibels_and_leaves_nothing(
    mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(parity.TorchParts):
        def unet(self, *inputs: torch.Tensor) -> torch.Tensor:
            return super().unet(*inputs) * 1.2

    monkeypatch.setattr(onnx.Onnx, "write", lambda *_: None)
    monkeypatch.setattr(onnx.Onnx, "open", lambda *_: Broken(model.load(mini)))
    monkeypatch.setattr("edgesafe.export.tokens.compare", lambda *_: {"strings": 0, "equal": 0})
    with pytest.raises(EdgeSafeError, match=r"unet \d+\.\d dB, and at least 35 dB is needed. Nothing was written. It is in fp32 already"):
        run(ExportConfig(str(mini), "onnx", out=tmp_path / "out", parity_steps=1), QUIET)
    assert not list(tmp_path.iterdir())
