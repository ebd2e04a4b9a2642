"""The choice of layers: rounding against numpy and onnxruntime's own, errors that add up, and the limits of `cover`."""

import numpy as np
import pytest
import torch

from edgesafe.export import rounding
from edgesafe.export.rounding import INT8, WEIGHT_8, Seen


def test_activations_round_as_the_standard_says() -> None:
    x = torch.linspace(-1.3, 2.7, 1001)
    low, high = -1.0, 2.0
    scale = (high - low) / 255
    expected = (np.clip(np.rint(x.numpy() / scale) + round(1.0 / scale), 0, 255) - round(1.0 / scale)) * scale
    np.testing.assert_allclose(rounding.fake(x, low, high), expected, atol=1e-6)
    assert torch.equal(rounding.fake(torch.zeros(3), low, high), torch.zeros(3)), "zero stays zero: padding"


@pytest.mark.parametrize("inputs", [64, 40])
def test_four_bits_are_those_of_onnxruntimes_own_kernel(inputs: int) -> None:
    quantizer = pytest.importorskip("onnxruntime.quantization.matmul_nbits_quantizer")
    from edgesafe.export.onnx_int4 import pack

    torch.manual_seed(0)
    weight = torch.randn(24, inputs)
    config = quantizer.DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=True, bits=4)
    packed, scales, _ = quantizer.DefaultWeightOnlyQuantizer(config).qbits_block_quant(weight.t().contiguous().numpy())
    ours, our_scales = pack(weight, 4)
    np.testing.assert_allclose(our_scales, scales.reshape(our_scales.shape), rtol=1e-6)

    def values(bytes_: np.ndarray) -> np.ndarray:
        return np.stack([bytes_ & 15, bytes_ >> 4], -1).reshape(24, -1)[:, :inputs].astype(int)

    apart = values(ours.numpy()) - values(packed)
    assert np.abs(apart).max() <= 1 and (apart != 0).mean() < 0.01, "ties may round to either side"


def test_cover_takes_no_more_than_it_must() -> None:
    shares = {name: torch.tensor([[value]]) for name, value in {"a": 0.9, "b": 0.5, "c": 0.1, "d": 0.05}.items()}
    equal = dict.fromkeys(shares, 1)
    assert rounding.cover(shares, equal, torch.zeros(1, 1)) == ["a"]
    assert rounding.cover(shares, equal | {"a": 1000}, torch.zeros(1, 1)) == ["b", "c"] or rounding.cover(
        shares, equal | {"a": 1000}, torch.zeros(1, 1)
    ) == ["b"], "a dear layer stays narrow where cheap ones do"
    assert rounding.cover({"c": shares["c"]}, equal, torch.zeros(1, 1)) == []
    assert rounding.cover(shares, equal, torch.full((1, 1), 2.0)) == list(shares), "what nothing can mend leaves nothing narrow"


def test_errors_add_up_and_nothing_stays_rounded() -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(*[layer for _ in range(4) for layer in (torch.nn.Linear(64, 64), torch.nn.Tanh())])
    x = torch.randn(256, 64)
    with torch.no_grad():
        calls = [((x,), (net(x),))]
    names = ["0", "2", "4", "6"]
    seen = rounding.observe(net, names, calls, lambda _: None)
    assert seen["0"].macs == 256 * 64 * 64 and seen["0"].low == float(x.min())
    alone = sum(rounding.error(net, {name: INT8}, seen, calls) for name in names)
    together = rounding.error(net, dict.fromkeys(names, INT8), seen, calls)
    assert 0.7 < float(together / alone) < 1.4
    with torch.no_grad():
        assert torch.equal(net(x), calls[0][1][0]) and not net[0]._forward_pre_hooks
    only_weights = rounding.error(net, dict.fromkeys(names, WEIGHT_8), {}, calls)
    assert 0 < float(only_weights) < float(together)


def test_a_harder_gate_keeps_more_wide() -> None:
    found = {(name,): torch.tensor([[10.0**-i]]) for i, name in enumerate("abcdef")}
    costs = dict.fromkeys("abcdef", 1)
    wide = [len(rounding.choose(found, costs, torch.tensor([[limit]])).wide) for limit in (2.0, 0.5, 0.05, 0.005)]
    assert wide == [0, 1, 2, 3]


def test_ranges_grow_on_both_sides() -> None:
    assert Seen(-1.0, 2.0, -3.0, 4.0, 7).wider(1.5) == Seen(-1.5, 3.0, -4.5, 6.0, 7)
