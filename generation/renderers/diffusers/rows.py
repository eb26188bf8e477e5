"""One strength for each picture of a batch: the update is added to outputs, not to weights.

Merged weights have one strength, so that few prompts leave a GPU's batch nearly empty. Here the
weights stay as they are and every adapted layer gives W0 x + s_i (up (down x)), with picture i's
own strength s_i: the formula of the LoRA paper before merging (Hu et al. 2021,
https://arxiv.org/abs/2106.09685, section 4.1). It costs two thin products a layer and pays where
the batch would otherwise be small.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from generation.loras.deltas import ModuleDelta


class RowStrengths:
    """Plain LoRA updates on a denoiser's layers, with a strength for every row of the batch."""

    def __init__(self, denoiser: torch.nn.Module) -> None:
        self._denoiser = denoiser
        self._strengths = torch.zeros(1)
        self._hooks: list[Any] = []

    def attach(self, updates: Mapping[str, tuple[ModuleDelta, float]]) -> None:
        """Replace what is attached: parameter name -> (its update, a factor of the strength)."""
        self.detach()
        for parameter, (delta, amount) in updates.items():
            if not amount:
                continue
            layer = self._denoiser.get_submodule(parameter.removesuffix(".weight"))
            self._hooks.append(layer.register_forward_hook(self._hook(layer, delta, amount)))

    def detach(self) -> None:
        """Leave the denoiser as it was."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def set(self, strengths: Sequence[float]) -> None:
        """The strength of every picture of the next batch."""
        device = next(self._denoiser.parameters()).device
        self._strengths = torch.tensor(strengths, dtype=torch.float32, device=device)

    def _hook(self, layer: torch.nn.Module, delta: ModuleDelta, amount: float) -> Any:
        weight: Any = layer.weight
        outer: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
        up = torch.as_tensor(delta.factors["up"], device=weight.device).flatten(1)
        down = torch.as_tensor(delta.factors["down"], device=weight.device)
        if delta.rows is not None:
            up = torch.cat([up[begin:end] for begin, end in delta.rows])
        up = (up * (delta.scale * amount)).to(weight.dtype)
        down = down.reshape(len(down), *weight.shape[1:]).to(weight.dtype)
        if isinstance(layer, torch.nn.Conv2d):
            up = up[:, :, None, None]
            stride, padding, dilation = layer.stride, layer.padding, layer.dilation

            def inner(x: torch.Tensor) -> torch.Tensor:
                return functional.conv2d(x, down, None, stride, padding, dilation)

            outer = functional.conv2d
        else:

            def inner(x: torch.Tensor) -> torch.Tensor:
                return functional.linear(x, down)

            outer = functional.linear

        # The thin product is scaled, where it costs least; at strength 0 the sum is W0 x itself.
        return lambda _layer, xs, output: output + outer(inner(xs[0]) * self._of(xs[0]), up)

    def _of(self, x: torch.Tensor) -> torch.Tensor:
        """Each row's strength, shaped to multiply `x`; guidance puts the batch there twice."""
        times = x.shape[0] // len(self._strengths)
        return self._strengths.to(x.dtype).repeat(times).view(-1, *[1] * (x.dim() - 1))
