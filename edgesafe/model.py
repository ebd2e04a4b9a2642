"""A text-to-image model as a stock Stable Diffusion or Stable Diffusion XL pipeline folder: find it, load its parts, save them.

`load` takes "emoji:teacher", "emoji:student", a run folder, a pipeline folder or a Hugging Face hub id, safetensors only.
"""

import copy
import importlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedModel

from . import families, sampling, widen
from .errors import EdgeSafeError, first_line
from .families import FAMILIES, Conditions, Family, Part

PACKAGED = Path(__file__).parent / "emoji"
PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
HUB_PARTS = tuple(dict.fromkeys(part for family in FAMILIES.values() for part in family.parts))
HUB_WEIGHTS = [f"{part}/*.{end}" for part in HUB_PARTS for end in ("json", "safetensors")]
HUB_FILES = ["model_index.json", "scheduler/*", "tokenizer/*", "tokenizer_2/*", *HUB_WEIGHTS]


@dataclass
class TextToImage:
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler_config: dict[str, Any]  # of scheduler/scheduler_config.json
    source: str  # what the user named: an id or a path
    folder: Path | None = None  # where it was read from
    text_encoder_2: CLIPTextModelWithProjection | None = None  # of Stable Diffusion XL
    tokenizer_2: CLIPTokenizer | None = None
    zero_empty: bool = False  # Stable Diffusion XL: an empty prompt is zeros to the UNet

    @property
    def family(self) -> Family:
        return families.StableDiffusion if self.text_encoder_2 is None else families.StableDiffusionXL

    @property
    def prediction_type(self) -> str:
        return self.scheduler_config.get("prediction_type", "epsilon")

    @property
    def vae_factor(self) -> int:
        """Pixels a latent, along one side."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def picture_size(self) -> int:
        """Side of the pictures that the UNet was made for, in pixels."""
        return self.unet.config.sample_size * self.vae_factor

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return (self.unet.config.in_channels, self.unet.config.sample_size, self.unet.config.sample_size)

    @property
    def revision(self) -> str | None:
        """The commit of a model from the hub."""
        return self.folder.name if self.folder and self.folder.parent.name == "snapshots" else None

    @property
    def weights_file(self) -> Path | None:
        """The UNet's weight file, where it is one file."""
        files = sorted((self.folder / "unet").glob("*.safetensors")) if self.folder else []
        return files[0] if len(files) == 1 else None

    @property
    def vae_overflows(self) -> bool:
        """Stable Diffusion XL's VAE passes fp16's range, and its config says so; mended ones say that they do not."""
        return self.text_encoder_2 is not None and bool(self.vae.config.force_upcast)

    def modules(self) -> dict[str, nn.Module]:
        return {name: getattr(self, name) for name in self.family.parts}

    def tokenizers(self) -> dict[str, CLIPTokenizer]:
        """Text encoder -> its tokenizer."""
        return {encoder: getattr(self, name) for encoder, name in self.family.tokenizers.items()}

    def freeze(self) -> "TextToImage":
        for module in self.modules().values():
            module.eval().requires_grad_(False)
        return self


def resolve(source: str | Path) -> Path | str:
    """The folder that `source` names, or `source` itself as a hub id."""
    text = str(source)
    if text.startswith("emoji:"):
        folder = PACKAGED / text.removeprefix("emoji:")
        known = ("emoji:teacher", "emoji:student")
        if text not in known:
            raise EdgeSafeError(f"unknown packaged model {text!r}; known: {', '.join(known)}")
        if not (folder / "model_index.json").is_file():
            raise EdgeSafeError(f"{text}: not in this installation (no {folder}/model_index.json). Install edgesafe again, or name another")
        return folder
    path = Path(text).expanduser()
    if not path.exists():
        if _is_hub_id(text):
            return text
        raise EdgeSafeError(f"{text}: no such folder, and not a Hugging Face id (owner/name)")
    if (path / "model" / "model_index.json").is_file():
        return path / "model"
    if (path / "config.json").is_file() and (path / "metrics.jsonl").is_file():
        raise EdgeSafeError(f"{path}: a run that did not finish. Go on with: edgesafe train --resume {path}")
    if not (path / "model_index.json").is_file():
        raise EdgeSafeError(f"{path}: no model_index.json, so not a pipeline folder. Give the one that holds unet/, vae/, text_encoder/")
    return path


def local(source: str | Path) -> Path:
    """The folder of a model on this machine; of a hub id, the copy in the hub's cache. Raises: EdgeSafeError where there is none."""
    folder = resolve(source)
    return _download(folder, cached=True) if isinstance(folder, str) else folder


def load(source: str | Path, dtype: torch.dtype = torch.float32) -> TextToImage:
    """Every part in `dtype`, in eval mode, weights untouched by gradients.

    Raises: EdgeSafeError for pickled weights, unknown pipeline or part classes and unreadable files, by name.
    """
    return _read(source, lambda folder, cls: _part(folder, cls, dtype))


def sketch(source: str | Path) -> TextToImage:
    """As `load`, but from the configs alone, in a moment: the parts lie on torch's meta device, with shapes and no values.

    Raises: EdgeSafeError as `load`, but for the weights.
    """
    return _read(source, _outline)


def _read(source: str | Path, part_of: Callable[[Path, Any], Any]) -> TextToImage:
    folder = resolve(source)
    if isinstance(folder, str):
        folder = _download(folder)
    index = _json(folder / "model_index.json")
    if (named := index.get("_class_name")) not in FAMILIES:
        raise EdgeSafeError(f"{folder / 'model_index.json'}: unknown pipeline class {named!r}; known: {', '.join(FAMILIES)}")
    family = FAMILIES[named]
    classes = {part: _known(folder / "model_index.json", part, index.get(part), names) for part, names in family.parts.items()}
    parts = {part: part_of(folder / part, _class(*names)) for part, names in classes.items()}
    tokens = {name: _tokenizer(folder / name) for name in family.tokenizers.values()}
    schedule = _json(folder / "scheduler" / "scheduler_config.json")
    zero_empty = len(tokens) > 1 and index.get(families.ZERO_EMPTY, True)
    model = TextToImage(**parts, **tokens, scheduler_config=schedule, source=str(source), folder=folder, zero_empty=zero_empty)
    if model.prediction_type not in ("epsilon", "v_prediction"):
        raise EdgeSafeError(f"{folder / 'scheduler'}: prediction_type {model.prediction_type!r}; known: epsilon, v_prediction")
    return model.freeze()


def save(model: TextToImage, folder: Path, dtype: torch.dtype = torch.float16) -> None:
    """A stock folder of the family's pipeline, safetensors in `dtype`; the model's own parts keep theirs."""
    # nn.Module.to, because that of diffusers warns about each cast.
    parts = {name: nn.Module.to(copy.deepcopy(part), "cpu", dtype) for name, part in model.modules().items()}
    scheduler = getattr(diffusers, model.scheduler_config.get("_class_name", "DDIMScheduler"), DDIMScheduler)
    tokens = {name: getattr(model, name) for name in model.family.tokenizers.values()}
    options = dict(model.family.options)
    if model.text_encoder_2 is not None:
        options[families.ZERO_EMPTY] = model.zero_empty
    pipeline = _class("diffusers", model.family.pipeline)
    schedule = scheduler.from_config(model.scheduler_config)
    pipeline(**parts, **tokens, scheduler=schedule, **options).save_pretrained(folder, safe_serialization=True)


def token_ids(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> Tensor:
    """(N, S), longer prompts cut, shorter ones filled up."""
    length = tokenizer.model_max_length
    return tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt").input_ids


@torch.no_grad()
def conditions(model: TextToImage, prompts: Sequence[str], size: tuple[int, int] | None = None) -> Conditions:
    """All that the UNet reads of prompts, as families.py says; `size`: height and width in pixels, the model's own by default."""
    encoded = []
    for name, tokenizer in model.tokenizers().items():
        encoder = getattr(model, name)
        encoded.append(families.encode(model.family, encoder, token_ids(tokenizer, prompts).to(encoder.device)))
    return model.family.conditions(encoded, prompts, size or (model.picture_size,) * 2, model.zero_empty)


def encode(model: TextToImage, prompts: Sequence[str]) -> Tensor:
    """(N, S, C) the prompts' states alone, which is all that the UNet of Stable Diffusion 1 and 2 reads."""
    return conditions(model, prompts)[0]


def predict(model: TextToImage, sample: Tensor, timestep: Tensor, *given: Tensor) -> Tensor:
    """The UNet's answer (B, C, h, w) to x_t and `conditions`."""
    return families.call(model.unet, sample, timestep, *given)


def predictor(unet: nn.Module) -> sampling.UNetCall:
    """A UNet in its own dtype as a function of (x_t, t, *conditions), answering in fp32."""

    def predict(noisy: Tensor, timesteps: Tensor, *given: Tensor) -> Tensor:
        dtype = next(unet.parameters()).dtype
        return families.call(unet, noisy.to(dtype), timesteps.to(noisy.device), *(c.to(dtype) for c in given)).float()

    return predict


def alphas_cumprod(model: TextToImage) -> Tensor:
    """(T,) the share of the picture's variance left at each timestep, alpha-bar."""
    return sampling.scheduler("ddim", model.scheduler_config).alphas_cumprod.float()


def _is_hub_id(text: str) -> bool:
    owner, slash, name = text.partition("/")
    return bool(slash and owner and name) and "/" not in name and not text.startswith((".", "~"))


def _download(repo: str, cached: bool = False) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repo, allow_patterns=HUB_FILES, ignore_patterns=["*non_ema*"], local_files_only=cached))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise EdgeSafeError(f"{repo}: no such folder, and the Hugging Face hub did not give it ({first_line(error)})") from error


def _known(index: Path, part: str, found: list[str] | None, usual: Part) -> Part:
    """The class of a part, of what model_index.json names."""
    named = (found or [None, None])[1]
    known = {names[1]: names for names in (usual, *families.STAND_INS.get(usual, ()))}
    if named not in known:
        raise EdgeSafeError(f"{index}: {part} is a {named}; EdgeSafe reads {' or '.join(known)}")
    return known[named]


def _class(library: str, name: str) -> Any:
    return getattr(importlib.import_module(library), name)


def _tokenizer(folder: Path) -> CLIPTokenizer:
    try:
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, TypeError, ValueError) as error:
        raise EdgeSafeError(f"{folder}: not readable as a CLIP tokenizer ({first_line(error)})") from error


def _part(folder: Path, cls: Any, dtype: torch.dtype) -> Any:
    if not folder.is_dir():
        raise EdgeSafeError(f"{folder}: missing; the model_index.json beside it names it")
    weights = sorted(folder.glob("*.safetensors"))
    pickled = sorted(p for p in folder.iterdir() if p.suffix in PICKLES)
    if not weights and pickled:
        raise EdgeSafeError(
            f"{pickled[0]}: a pickle can run code when it is opened, so EdgeSafe reads safetensors only. Convert it where you trust it: "
            "load the pipeline in diffusers and call save_pretrained(folder, safe_serialization=True)"
        )
    if not weights:
        raise EdgeSafeError(f"{folder}: no .safetensors file in it")
    variant = "fp16" if all(".fp16" in p.suffixes for p in weights) else None
    transformers = issubclass(cls, PreTrainedModel)
    precision = {"dtype": dtype} if transformers else {"torch_dtype": dtype}
    try:
        if not transformers and len(weights) == 1 and (part := widen.read(cls, folder, weights, dtype)) is not None:
            return part
        return cls.from_pretrained(folder, use_safetensors=True, variant=variant, local_files_only=True, **precision)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise EdgeSafeError(f"{folder}: not readable as {cls.__name__} ({first_line(error)})") from error


def _outline(folder: Path, cls: Any) -> Any:
    """The part with the shapes of its config.json, without weights."""
    if not folder.is_dir():
        raise EdgeSafeError(f"{folder}: missing; the model_index.json beside it names it")
    config = _json(folder / "config.json")
    try:
        with torch.device("meta"):
            return cls(CLIPTextConfig.from_dict(config)) if issubclass(cls, PreTrainedModel) else cls.from_config(config)
    except (KeyError, TypeError, ValueError) as error:
        raise EdgeSafeError(f"{folder / 'config.json'}: not readable as {cls.__name__} ({first_line(error)})") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise EdgeSafeError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise EdgeSafeError(f"{path}: not valid JSON ({error})") from error
