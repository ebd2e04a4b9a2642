"""The plan's totals are the student's own cost; its units those that are kept; and it is printed before the cut."""

import io
from functools import partial
from pathlib import Path

import pytest
import torch
from rich.console import Console

from edgesafe import model
from edgesafe.model import TextToImage
from edgesafe.pruners import named, plan
from edgesafe.pruners.cost import cost
from edgesafe.pruners.units import groups
from edgesafe.pruners.width import cut


@pytest.fixture(scope="module")
def teacher(tiny_sd2: Path) -> TextToImage:
    return model.load(tiny_sd2)


def own_cost(net: TextToImage, unet: torch.nn.Module):
    return cost(unet, net.latent_shape, net.tokenizer.model_max_length).total


@pytest.mark.parametrize("variant", ["base", "small", "tiny"])
def test_depth(teacher: TextToImage, variant: str):
    pruner = named(f"bk-sdm-{variant}")
    planned = plan.rows(teacher, pruner.prune)
    total = plan.total(planned)
    assert total.before == own_cost(teacher, teacher.unet)
    assert total.after == own_cost(teacher, pruner.prune(teacher.unet).unet)
    assert planned["mid"].after == planned["mid"].before if variant == "base" else planned["mid"].after == plan.NOTHING
    assert planned["up.0"].after.macs == 0 if variant == "tiny" else planned["up.0"].after.macs > 0
    assert planned["up.3"].units["heads"] == (2 * 2 * 2, 3 * 2 * 2)  # pairs, attentions a pair, heads
    assert planned["up.3"].units["resnet"] == (2 * 8, 3 * 8)


def test_width(teacher: TextToImage):
    keep = {group.name: torch.arange(group.count // 2) for group in groups(teacher.unet) if group.module.startswith("down_blocks.1")}
    planned = plan.rows(teacher, partial(cut, keep=keep))
    changed = {block for block, row in planned.items() if row.before != row.after}
    assert changed == {"down.1"}
    assert planned["down.1"].units == {"resnet": (8, 16), "heads": (8, 16), "ff": (128, 256)}
    assert plan.total(planned).after == own_cost(teacher, cut(teacher.unet, keep).unet)


def test_it_is_printed_and_cuts_nothing(teacher: TextToImage):
    before = {name: weight.clone() for name, weight in teacher.unet.state_dict().items()}
    printed = io.StringIO()
    plan.show(Console(file=printed, width=80), teacher, named("bk-sdm-small").prune, "bk-sdm-small")
    lines = printed.getvalue().splitlines()
    total = plan.total(plan.rows(teacher, named("bk-sdm-small").prune))
    assert f"{total.after.macs / total.before.macs:.1%} of its MACs" in " ".join(lines[:2])
    (mid,) = (line for line in lines if " mid " in line)
    assert "0/16" in mid and mid.split()[-1] == "0"
    assert all(torch.equal(weight, before[name]) for name, weight in teacher.unet.state_dict().items())
