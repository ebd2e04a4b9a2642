"""A checkpoint resumes training bit for bit, and a failed write leaves the former one."""

from pathlib import Path

import pytest
import torch
from torch import nn

from edgesafe import checkpoint


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))
    return model, torch.optim.AdamW(model.parameters(), 1e-2)


def test_resuming_equals_going_on(tmp_path: Path) -> None:
    model, optimizer = fresh()
    steps(model, optimizer, 0, 6)
    path = tmp_path / "deep" / "state.safetensors"

    halfway, halfway_optimizer = fresh()
    steps(halfway, halfway_optimizer, 0, 3)
    groups = {"model": halfway.state_dict(), "optimizer": checkpoint.optimizer_tensors(halfway_optimizer)}
    checkpoint.save(path, groups, {"step": 3, "note": "é"})

    resumed, resumed_optimizer = fresh()
    groups, meta = checkpoint.load(path)
    resumed.load_state_dict(groups["model"])
    checkpoint.restore_optimizer(resumed_optimizer, groups["optimizer"])
    steps(resumed, resumed_optimizer, meta["step"], 6)
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert meta["note"] == "é"


def test_views_and_transposes_are_stored_by_value(tmp_path: Path) -> None:
    base = torch.arange(6.0).view(2, 3)
    checkpoint.save(tmp_path / "s", {"g": {"a": base.T, "b": base[0]}}, {})
    groups, _ = checkpoint.load(tmp_path / "s")
    assert torch.equal(groups["g"]["a"], base.T) and torch.equal(groups["g"]["b"], base[0])


def test_a_failed_write_leaves_the_former_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.safetensors"
    checkpoint.save(path, {"g": {"a": torch.zeros(1)}}, {"step": 1})

    def full(tensors: dict, part: Path, metadata: dict) -> None:
        part.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(path, {"g": {"a": torch.ones(1)}}, {"step": 2})
    assert checkpoint.load(path)[1] == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["state.safetensors"]
