"""Which layers may be narrow, by where they stand."""

import pytest
import torch

from edgesafe.errors import EdgeSafeError
from edgesafe.export import layout, narrowing, rounding
from edgesafe.export.narrowing import Step, inner


def test_ends_and_the_time_embedding_are_left_alone() -> None:
    steps = [
        Step(("timestep",), ("t1",)),
        Step(("t1",), ("t2",), "time.linear"),
        Step(("t2",), ("t3",), "resnet.time_proj"),
        Step(("sample",), ("a",), "conv_in", True),
        Step(("a", "t3"), ("b",)),
        Step(("b",), ("c",), "resnet.conv", True),
        Step(("states",), ("k",), "attn.to_k"),
        Step(("c", "k"), ("d",), "attn.to_q"),
        Step(("d",), ("out",), "conv_out", True),
    ]
    assert inner(steps, {"sample", "states"}) == ["resnet.conv", "attn.to_k", "attn.to_q"]


def test_a_file_below_the_gate_is_asked_for_more_and_one_that_cannot_be_is_refused() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(32, 32), torch.nn.Tanh(), torch.nn.Linear(32, 32))
    x = torch.randn(64, 32)
    with torch.no_grad():
        calls = [((x,), (net(x),))]
    part = layout.Part("net", net, {"x": x}, ("y",), {"x": {0: "batch"}}, {})
    written = []

    def opened() -> narrowing.Run:
        noise = 0.5 / 4 ** len(written)
        return lambda inputs: {"y": calls[0][1][0] + noise * torch.randn(64, 32)}

    facts = narrowing.int8(part, ["0", "2"], rounding.INT8, calls, 30.0, written.append, opened, lambda _: None)
    assert len(written) == 2 and facts["probed_db"] >= 30, "21 dB at first, 33 at the second attempt"
    with pytest.raises(EdgeSafeError, match="net: no layer can be int8 at 200 dB"):
        narrowing.int8(part, ["0", "2"], rounding.INT8, calls, 200.0, written.append, opened, lambda _: None)
    with pytest.raises(EdgeSafeError, match="net: 4 bits need linear layers whose inputs are a multiple of 32; it has none"):
        narrowing.int4(part, ["0", "2"], [], calls, 30.0, written.append, opened, lambda _: None)
    with pytest.raises(EdgeSafeError, match="net: no layer can take 4 bits at 100 dB. Try --quantize int8"):
        narrowing.int4(part, ["0", "2"], ["0", "2"], calls, 100.0, written.append, opened, lambda _: None)


def test_calls_are_cut_to_a_fixed_batch() -> None:
    part = layout.Part("x", torch.nn.Identity(), {"x": torch.zeros(2, 3), "t": torch.tensor(1.0)}, ("y",), {}, {})
    rows = torch.arange(5).unsqueeze(1).expand(5, 3).float()
    (x, t), (y,) = part.cut(((rows, torch.tensor(7.0)), (rows,)))
    assert x[:, 0].tolist() == y[:, 0].tolist() == [0, 1] and t == 7
    assert part.cut(((rows[:1], t), (rows[:1],)))[0][0].shape == (2, 3), "filled up with copies"
