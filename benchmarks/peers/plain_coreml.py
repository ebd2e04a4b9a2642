"""coremltools as its guide has it: trace the UNet on random inputs, convert to an fp16 program for iOS 17, save."""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn


class Unet(nn.Module):
    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        """states (B, C, 1, S)"""
        return self.unet(sample, timestep, states.squeeze(2).transpose(1, 2), return_dict=False)[0]


if __name__ == "__main__":
    import coremltools as ct
    from diffusers import UNet2DConditionModel

    unet = UNet2DConditionModel.from_pretrained(f"{sys.argv[1]}/unet", torch_dtype=torch.float32, local_files_only=True).eval()
    c = unet.config
    shapes = {
        "sample": (2, c.in_channels, c.sample_size, c.sample_size),
        "timestep": (2,),
        "encoder_hidden_states": (2, c.cross_attention_dim, 1, 77),
    }
    with torch.no_grad():
        traced = torch.jit.trace(Unet(unet), tuple(torch.rand(shape) for shape in shapes.values()), check_trace=False)
    model = ct.convert(
        traced,
        convert_to="mlprogram",
        inputs=[ct.TensorType(name, shape, np.float32) for name, shape in shapes.items()],
        outputs=[ct.TensorType("noise_pred", dtype=np.float32)],
        minimum_deployment_target=ct.target.iOS17,
        compute_precision=ct.precision.FLOAT16,
        skip_model_load=True,
    )
    Path(sys.argv[2]).mkdir()
    model.save(f"{sys.argv[2]}/Unet.mlpackage")
