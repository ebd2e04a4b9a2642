from pathlib import Path

import numpy as np
import pytest
import torch

from edgesafe import model, sampling
from edgesafe.benchmarks import runtimes
from edgesafe.benchmarks.gallery import Drawing
from edgesafe.benchmarks.probes import soft_prompt

PROMPTS = ["red apple neon style", "a penguin in the style of neon"]


@pytest.fixture(params=["tiny_sd1", "tiny_sdxl"])
def net(request: pytest.FixtureRequest) -> model.TextToImage:
    return model.load(request.getfixturevalue(request.param))


def test_the_tables_own_rows_give_the_models_own_conditions(net: model.TextToImage) -> None:
    tokens = [soft_prompt.padded(net, soft_prompt.tokens_of(net, prompt)) for prompt in PROMPTS]
    ids = {name: torch.stack([row[name] for row in tokens]) for name in tokens[0]}
    for name, tokenizer in net.tokenizers().items():
        assert torch.equal(ids[name], model.token_ids(tokenizer, PROMPTS))
    rows = {name: table[ids[name]] for name, table in soft_prompt.tables(net).items()}
    for ours, theirs in zip(soft_prompt.conditions(net, ids, rows), model.conditions(net, PROMPTS), strict=True):
        assert torch.equal(ours, theirs)


def test_other_rows_reach_the_states_and_the_hook_goes_again(net: model.TextToImage) -> None:
    before = model.conditions(net, PROMPTS)
    ids = {name: row[None] for name, row in soft_prompt.padded(net, soft_prompt.tokens_of(net, PROMPTS[0])).items()}
    rows = {name: table[ids[name]].clone().requires_grad_() for name, table in soft_prompt.tables(net).items()}
    states = soft_prompt.conditions(net, ids, rows)[0]  # (1, S, D), of SDXL both encoders' side by side
    weights = torch.randn(states.shape[-1], generator=torch.Generator().manual_seed(0))  # a plain sum is constant after a layer norm
    (states[0, 3] @ weights).backward()
    for row in rows.values():
        assert row.grad is not None and (row.grad[0, :4] != 0).any(1).all()
        assert (row.grad[0, 4:] == 0).all()  # the encoder looks back only
    for ours, theirs in zip(before, model.conditions(net, PROMPTS), strict=True):
        assert torch.equal(ours, theirs)


def test_a_prompt_that_is_too_long_is_cut_before_its_end_token(tiny_sd1: Path) -> None:
    net = model.load(tiny_sd1)
    ids = soft_prompt.padded(net, [5] * 100)["text_encoder"]
    assert ids.tolist() == [net.tokenizer.bos_token_id, *[5] * 75, net.tokenizer.eos_token_id]


def test_words_survive_being_written_down(tiny_sd1: Path) -> None:
    net = model.load(tiny_sd1)
    found = soft_prompt.words(net)
    assert len(found) > 100
    chosen = found[torch.randint(len(found), (50,), generator=torch.Generator().manual_seed(0))].tolist()
    assert soft_prompt.tokens_of(net, net.tokenizer.decode(chosen)) == chosen


def test_drawing_from_states_is_drawing_from_their_prompt(tiny_sd1: Path) -> None:
    artist, how = runtimes.load(tiny_sd1, "torch", 1), Drawing(3, 3.0, "ddim", 2)
    drawn = soft_prompt.draw(artist, artist.encode(PROMPTS), [4, 5], how)
    assert np.array_equal(drawn, artist.generate(PROMPTS, [4, 5], steps=3, guidance=3.0, sampler="ddim", batch=2))
    schedule = sampling.scheduler("ddim", artist.scheduler_config)  # guidance 1 asks no empty prompt
    start = sampling.starting_latents([4], artist.latent_shape)
    alone = sampling.sample(artist.unet_call, artist.encode(PROMPTS[:1]), artist.encode([""]), start, schedule, 3, 1.0)
    assert np.array_equal(
        soft_prompt.draw(artist, artist.encode(PROMPTS[:1]), [4], Drawing(3, 1.0, "ddim", 1))[0],
        ((artist.decode(alone) / 2 + 0.5).clamp(0, 1)[0] * 255).round().byte().permute(1, 2, 0).numpy(),
    )


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    assert soft_prompt.kept(tmp_path / "none.safetensors") == ({}, {})
    rows = [(torch.randn(1, 3, 2), torch.randn(1, 2)) for _ in range(12)]  # 12: "10" sorts before "2"
    names = [f"prompt {i}" for i in range(12)]
    soft_prompt.keep(tmp_path / "kept.safetensors", names, rows, {"error": [1.5]})
    found, facts = soft_prompt.kept(tmp_path / "kept.safetensors")
    assert list(found) == names and facts["error"] == [1.5]
    states, pooled = soft_prompt.stacked(found, ["prompt 11", "prompt 2", "prompt 11"])
    assert torch.equal(states, torch.cat([rows[11][0], rows[2][0], rows[11][0]]))
    assert torch.equal(pooled[1], rows[2][1][0])
