"""Where a model differs from what Apple's own Swift package assumes, said plainly.

Its schedulers (PNDM, DPM-Solver++) are written for epsilon prediction, 1000 training steps, scaled_linear betas 0.00085 to 0.012; its
decoder divides by 0.18215; its UNet is called with batch 2; its tokenizer splits on spaces only and pads with <|endoftext|>.
"""

from edgesafe.errors import EdgeSafeError
from edgesafe.model import TextToImage

BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
ASSUMED = {"prediction_type": "epsilon", "num_train_timesteps": 1000, **BETAS}
DIFFUSERS = {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}  # its defaults, where they differ
SCALING_FACTOR, BATCH, PADS = 0.18215, 2, ("<|endoftext|>", "!")  # the second: of Stable Diffusion XL's second text encoder
SIZE_XL = 1024


def refuse(model: TextToImage, own_scheduler: bool) -> None:
    """Raises EdgeSafeError for a prediction type that no scheduler of Apple's package computes, unless the app brings its own."""
    if model.prediction_type != ASSUMED["prediction_type"] and not own_scheduler:
        known = "the schedulers of Apple's Swift package know epsilon alone, so it would draw noise"
        own = "If your app samples with a scheduler of its own, say so with --own-scheduler; the manifest's `target` holds its values"
        raise EdgeSafeError(f"the model predicts {model.prediction_type}; {known}. {own}")


def notes(model: TextToImage, batch: int, size: tuple[int, int]) -> tuple[str, ...]:
    """One line for each difference, and always one on the tokenizer. `size`: height and width in pixels."""
    config = ASSUMED | DIFFUSERS | model.scheduler_config
    found = []
    for key, assumed in ASSUMED.items():
        if config[key] != assumed:
            found.append(f"{key} is {config[key]}; the schedulers of Apple's Swift package assume {assumed}. {_advice(key)}")
    if model.vae.config.scaling_factor != SCALING_FACTOR:
        scale = f"the VAE's scaling_factor is {model.vae.config.scaling_factor}"
        found.append(f"{scale}; Apple's Swift package divides by {SCALING_FACTOR} unless its configuration says otherwise")
    if batch != BATCH:
        found.append(
            f"the UNet takes batch {batch}; Apple's Swift package sends 2, with and without the prompt. Call it twice from your own code"
        )
    for tokenizer, pad in zip(model.tokenizers().values(), PADS, strict=False):
        if tokenizer.pad_token != pad:
            found.append(f"the tokenizer pads with {tokenizer.pad_token!r}; Apple's Swift tokenizer pads with {pad!r}")
    if model.zero_empty:
        found.append("without a negative prompt this model's pipeline gives the UNet zeros; Apple's Swift package encodes the empty text")
    if model.text_encoder_2 is not None and size != (SIZE_XL, SIZE_XL):
        sizes = f"{size[0]} x {size[1]}, where Apple's Swift package says {SIZE_XL} x {SIZE_XL}"
        found.append(f"the UNet is told the picture's size as height and width, {sizes}; set originalSize and targetSize")
    found.append("Apple's Swift tokenizer splits on spaces only: token ids are equal for words of a-z and single digits; write prompts so")
    return tuple(found)


def _advice(key: str) -> str:
    if key == "prediction_type":
        return "It will not draw right there: sample with your own scheduler, or one that knows this prediction"
    return "Give your own scheduler the values that the manifest's `target` holds"
