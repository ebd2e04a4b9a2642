"""Core ML packages as they are read again on any machine, and the macOS path with torch in the place of `predict`."""

import json
import stat
from pathlib import Path

import numpy as np
import pytest
import torch

from edgesafe import artifact, mil, model
from edgesafe.errors import EdgeSafeError
from edgesafe.export import ExportConfig, apple, coreml, mlprogram, parity, run, wrappers
from edgesafe.export.coreml import CoreML

FP16, FP32 = 10, 11  # MIL's data types


@pytest.fixture(scope="module")
def exported(run_folder: Path) -> Path:
    return run(ExportConfig(str(run_folder), "coreml", vae_encoder=True))


def ports(folder: Path, name: str) -> tuple[dict, dict]:
    spec = mlprogram._coremltools().utils.load_spec(str(folder / f"{name}.mlpackage"))
    found = []
    for rows in (spec.description.input, spec.description.output):
        assert all(row.type.multiArrayType.dataType == row.type.multiArrayType.FLOAT32 for row in rows)
        found.append({row.name: tuple(row.type.multiArrayType.shape) for row in rows})
    return found[0], found[1]


def test_names_and_layouts_are_apples(exported: Path) -> None:
    assert ports(exported, "TextEncoder") == ({"input_ids": (1, 77)}, {"last_hidden_state": (1, 77, 32), "pooled_outputs": (1, 32)})
    inputs = {"sample": (2, 4, 8, 8), "timestep": (2,), "encoder_hidden_states": (2, 32, 1, 77)}
    assert ports(exported, "Unet") == (inputs, {"noise_pred": (2, 4, 8, 8)})
    assert ports(exported, "VAEDecoder") == ({"z": (1, 4, 8, 8)}, {"image": (1, 3, 64, 64)})
    assert ports(exported, "VAEEncoder") == ({"x": (1, 3, 64, 64)}, {"latent": (1, 8, 8, 8)})
    assert json.loads((exported / "vocab.json").read_text()) and (exported / "merges.txt").is_file()


def test_the_angle_stays_fp32_and_the_rest_is_fp16(exported: Path) -> None:
    spec = mlprogram._coremltools().utils.load_spec(str(exported / "Unet.mlpackage"))
    dtypes: dict[str, set[int]] = {}
    for operation in mlprogram.main_block(spec).operations:
        dtypes.setdefault(operation.type, set()).update(output.type.tensorType.dataType for output in operation.outputs)
    assert dtypes["sin"] == dtypes["cos"] == {FP32}
    assert dtypes["conv"] == dtypes["linear"] == dtypes["layer_norm"] == {FP16}


def test_manifest_holds_the_measured_parity_and_what_it_proves(exported: Path) -> None:
    made = artifact.read(exported)
    assert made.parity["measured"] and made.parity["proves"] == mil.PROVES and "native" not in made.parity
    assert set(made.parity["components"]) == {"text_encoder", "unet", "vae_decoder", "vae_encoder"}
    assert all(55 < row["psnr_db"] < 90 for row in made.parity["components"].values())  # fp16: neither worse nor suspiciously good
    assert made.target["batch"] == 2 and made.target["deployment"] == "iOS17" and made.target["precision"] == "fp16"
    assert made.target["scaling_factor"] == 0.18215 and made.target["scheduler"]["prediction_type"] == "epsilon"
    assert "Unet.mlpackage/Data/com.apple.CoreML/weights/weight.bin" in made.files


def test_fp32_not_square_batch_one_of_a_pruned_unet(tiny_sd2: Path, tmp_path: Path) -> None:
    loaded = model.load(tiny_sd2)
    loaded.unet = type(loaded.unet).from_config({**loaded.unet.config, "layers_per_block": 1}).eval()
    sizes = dict(batch=1, height=64, width=72)
    target = CoreML.plan(ExportConfig(target="coreml", precision="fp32", deployment="iOS18", own_scheduler=True, **sizes), loaded)
    assert target.parts == ("text_encoder", "unet", "vae_decoder")
    written = []
    target.write(loaded, tmp_path, written.append)
    assert written == list(target.parts) and not (tmp_path / "VAEEncoder.mlpackage").exists()
    assert ports(tmp_path, "Unet")[0] == {"sample": (1, 4, 8, 9), "timestep": (1,), "encoder_hidden_states": (1, 48, 1, 77)}
    assert ports(tmp_path, "VAEDecoder")[1] == {"image": (1, 3, 64, 72)}
    spec = mlprogram._coremltools().utils.load_spec(str(tmp_path / "Unet.mlpackage"))
    assert mlprogram.operations(spec)["scaled_dot_product_attention"] == 20 and spec.specificationVersion == 9
    recording = parity.record(loaded, ("red apple",), 64, 72, lambda: None, steps=2)
    found = parity.components(recording, target.open(tmp_path), target.parts, lambda: None)
    assert min(row["psnr_db"] for row in found.values()) > 110


def test_the_vaes_norms_hold_large_deviations_and_the_unets_stay_as_they_are(exported: Path) -> None:
    counts = {}
    for name in ("Unet", "VAEDecoder", "VAEEncoder"):
        counts[name] = mlprogram.operations(mlprogram._coremltools().utils.load_spec(str(exported / f"{name}.mlpackage")))
    assert counts["Unet"]["square"] and not counts["Unet"]["reduce_max"]
    assert not counts["VAEDecoder"]["square"] and counts["VAEDecoder"]["reduce_max"] == counts["VAEDecoder"]["sqrt"] > 20
    assert not counts["VAEEncoder"]["square"] and counts["VAEEncoder"]["reduce_max"] == counts["VAEEncoder"]["sqrt"] > 10


def test_apple_text_encoder_is_clip(tiny_sd1: Path) -> None:
    loaded = model.load(tiny_sd1)
    tokens = loaded.tokenizer(["a red apple"], padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        reference, made = loaded.text_encoder(tokens), wrappers.AppleTextEncoder(loaded.text_encoder, 77)(tokens.float())
    torch.testing.assert_close(made[0], reference.last_hidden_state)
    torch.testing.assert_close(made[1], reference.pooler_output)


def test_notes_name_each_difference_from_apples_package(tiny_sd1: Path) -> None:
    loaded = model.load(tiny_sd1)
    (only,) = apple.notes(loaded, 2, (64, 64))
    assert "splits on spaces only" in only
    loaded.scheduler_config |= {"prediction_type": "v_prediction", "beta_end": 0.02, "num_train_timesteps": 500}
    loaded.vae.register_to_config(scaling_factor=0.5)
    loaded.tokenizer.pad_token = "!"
    text = "\n".join(apple.notes(loaded, 1, (64, 64)))
    for part in (
        "prediction_type is v_prediction",
        "beta_end is 0.02",
        "num_train_timesteps is 500",
        "scaling_factor is 0.5",
        "batch 1",
        "pads with '!'",
    ):
        assert part in text


class FakeMLModel:
    """`predict` by the torch modules that were converted, so that layouts, batches and dtypes of the macOS path are checked here."""

    modules: dict[str, torch.nn.Module] = {}  # noqa: RUF012

    def __init__(self, path: str) -> None:
        self.path, self.name = path, Path(path).stem

    def get_spec(self) -> object:
        return mlprogram._coremltools().utils.load_spec(self.path)

    def predict(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert all(value.dtype == np.float32 for value in inputs.values())
        if self.name == "Unet":
            assert len(inputs["sample"]) == len(inputs["timestep"]) == 2 and inputs["encoder_hidden_states"].shape == (2, 32, 1, 77)
        with torch.no_grad():
            made = self.modules[self.name](*(torch.from_numpy(value) for value in inputs.values()))
        names = {
            "TextEncoder": ("last_hidden_state", "pooled_outputs"),
            "Unet": ("noise_pred",),
            "VAEDecoder": ("image",),
            "VAEEncoder": ("latent",),
        }
        return dict(zip(names[self.name], (x.numpy() for x in (made if isinstance(made, tuple) else (made,))), strict=True))


def test_on_macos_predict_is_compared_with_torch(tiny_sd1: Path, exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = model.load(tiny_sd1)
    monkeypatch.setattr(mlprogram._coremltools().models, "MLModel", FakeMLModel)
    monkeypatch.setattr(
        FakeMLModel,
        "modules",
        {
            "TextEncoder": wrappers.AppleTextEncoder(loaded.text_encoder, 77),
            "Unet": wrappers.AppleUnet(loaded.unet),
            "VAEDecoder": wrappers.VAEDecoder(loaded.vae),
            "VAEEncoder": wrappers.VAEEncoder(loaded.vae),
        },
    )
    target = CoreML.plan(ExportConfig(target="coreml", vae_encoder=True), loaded)
    assert target.open(exported).run == "evaluate" and target.open_native(exported) is None
    monkeypatch.setattr(coreml.sys, "platform", "darwin")
    parts = target.open_native(exported)
    assert target.open(exported).run == "evaluate" and parts.run == "predict"
    recording = parity.record(loaded, ("red apple", "shark", "lion"), 64, 64, lambda: None, steps=4)
    made = parity.measure(loaded, recording, parts, target.parts, lambda: None)
    assert min(row["psnr_db"] for row in made["components"].values()) > 100 and made["picture"]["max_levels"] <= 1


@pytest.mark.parametrize("part", ["TextEncoder", "Unet", "VAEDecoder"])
def test_a_crash_at_any_part_leaves_no_folder(tiny_sd1: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    def crash(*given: object) -> None:
        (path,) = (value for value in given if isinstance(value, Path))
        path.mkdir()
        if path.stem == part:
            raise RuntimeError(part)

    monkeypatch.setattr(mlprogram, "convert", crash)
    monkeypatch.setattr(mlprogram, "check", lambda *_: None)
    with pytest.raises(RuntimeError, match=part):
        run(ExportConfig(str(tiny_sd1), "coreml", out=tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_a_package_that_is_not_as_meant_is_refused(exported: Path) -> None:
    package = exported / "VAEDecoder.mlpackage"
    z, image = mlprogram.Port("z", (1, 4, 8, 8)), mlprogram.Port("image", (1, 3, 64, 64))
    assert mlprogram.check(package, [z], [image])["conv"] > 20
    with pytest.raises(EdgeSafeError, match=r"VAEDecoder.mlpackage: its outputs are .*image"):
        mlprogram.check(package, [z], [mlprogram.Port("picture", (1, 3, 64, 64))])


def test_an_operation_never_seen_is_named(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlprogram, "OPERATIONS", {name: known for name, known in mlprogram.OPERATIONS.items() if name != "conv"})
    with pytest.raises(EdgeSafeError, match="VAEDecoder.mlpackage: .*conv"):
        mlprogram.check(exported / "VAEDecoder.mlpackage", [mlprogram.Port("z", (1, 4, 8, 8))], [mlprogram.Port("image", (1, 3, 64, 64))])


def test_xcrun_compiles_each_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "xcrun"
    tool.parent.mkdir()
    tool.write_text('#!/bin/sh\ncase "$3" in *Bad*) echo "bad model" >&2; exit 1;; esac\nmkdir "$4/$(basename "$3" .mlpackage).mlmodelc"\n')
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tool.parent), prepend=":")
    (tmp_path / "Unet.mlpackage").mkdir()
    coreml.compile_packages(tmp_path)
    assert (tmp_path / "Unet.mlmodelc").is_dir()
    (tmp_path / "Bad.mlpackage").mkdir()
    with pytest.raises(EdgeSafeError, match=r"Bad.mlpackage: .*bad model"):
        coreml.compile_packages(tmp_path)


def test_sizes_that_the_vae_cannot_draw_are_refused(tiny_sd1: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgeSafeError, match="--width 60 is not a multiple of 8"):
        run(ExportConfig(str(tiny_sd1), "coreml", out=tmp_path / "out", width=60))
    assert not list(tmp_path.iterdir())
