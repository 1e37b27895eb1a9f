"""The kernels under diffusers' video VAE, where what it would run on is slow or takes memory for nothing.

Its modules stay as they are: inside ``VaeKernels`` the few functions that they call are answered otherwise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

DOUBLING = {"scale_factor": (2.0, 2.0), "mode": "nearest-exact"}  # as diffusers' WanUpsample asks for it


class VaeKernels(TorchFunctionMode):
    """Inside the block, an AutoencoderKLWan of ``dtype`` computes the same with less.

    float32 on the CPU, equal but for rounding, and always the same: convolutions by oneDNN, and RMS norms as a sum of
    squares. torch's own rules send one small sample to a convolution, and every norm over channels to a reduction,
    that take several times as long.

    16 bits anywhere, bit for bit the same: the norm divides the float32 copy that it was given in place of making a
    second one, and doubling a picture copies its pixels as they are in place of as float32.

    For inference: nothing here keeps what a gradient needs.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (F.conv2d, F.conv3d) and len(args) == 7 and _for_onednn(args[0]):
            return _convolve(*args)
        if func is F.normalize and kwargs["p"] == 2 and kwargs["out"] is None:
            return self._normalise(args[0], kwargs["dim"], kwargs["eps"])
        if func is F.interpolate and self._is_copy(args[0]) and DOUBLING.items() <= kwargs.items():
            return _double(args[0].to(self.dtype))
        return func(*args, **kwargs)

    def _normalise(self, x: Tensor, dim: int, eps: float) -> Tensor:
        if self._is_copy(x):
            return x.div_(x.norm(2, dim, keepdim=True).clamp_min(eps))
        on_cpu = x.device.type == "cpu"
        norm = x.square().sum(dim, keepdim=True).sqrt() if on_cpu else x.norm(2, dim, keepdim=True)
        return x / norm.clamp_min(eps)

    def _is_copy(self, x: Tensor) -> bool:
        """Whether ``x`` was made float32 for the function that it is handed to alone."""
        return x.dtype is torch.float32 and self.dtype is not torch.float32


def _for_onednn(x: Tensor) -> bool:
    """Whether oneDNN can convolve ``x``, be it torch's choice or not."""
    mkldnn = torch.backends.mkldnn
    return x.device.type == "cpu" and x.dtype is torch.float32 and mkldnn.is_available() and bool(mkldnn.enabled)


def _convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """As ``nn.Conv3d`` and ``nn.Conv2d`` call their functions: every argument in its place."""
    return torch.mkldnn_convolution(x.contiguous(), weight.contiguous(), bias, padding, stride, dilation, groups)


def _double(x: Tensor) -> Tensor:
    """Every pixel of [N, C, h, w] four times: [N, C, 2 h, 2 w]."""
    n, channels, height, width = x.shape
    return x[..., None, :, None].expand(-1, -1, -1, 2, -1, 2).reshape(n, channels, 2 * height, 2 * width)
