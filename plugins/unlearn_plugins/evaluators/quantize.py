"""Stress test: does rounding the weights bring the knowledge back?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from unlearn_cli.api import EvaluatorName, Subject

if TYPE_CHECKING:
    from torch import Tensor

BLOCK = 64
"""Weights that share a scale in 4 bits."""
NF4 = (
    *(-1.0, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.091050036, 0.0),
    *(0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1.0),
)
"""The sixteen values of the 4-bit normal float: quantiles of a normal distribution, scaled to
[-1, 1], with an exact 0 (Dettmers et al. 2023, arXiv:2305.14314, appendix E)."""


@dataclass(frozen=True)
class Quantize:
    """Round the weights of all linear layers but the output layer to 8 or 4 bits, and measure
    again.

    Unlearning moves weights by less than a step of 4 bits, so rounding may undo it. 8 bits: whole
    numbers, one scale a row of outputs. 4 bits: normal float, one scale for 64 weights. The rounded
    values go back into the weights, so this runs on any device and needs no extra library.

    Source: Zhang et al., Catastrophic Failure of LLM Unlearning via Quantization, ICLR 2025,
    arXiv:2410.16454.

    Differences from bitsandbytes' kernels: (1) weights alone are rounded; there LLM.int8 rounds
    activations too, and keeps outliers in 16 bits. (2) Scales are kept in the weights' type.
    """

    of: EvaluatorName = "tofu"
    """The evaluator that measures, with the options that the spec gives it."""
    bits: Literal[4, 8] = 4
    """Bits a weight."""

    def change(self, subject: Subject) -> None:
        """Round in place."""
        import torch

        head = subject.model.get_output_embeddings()
        rounded = to_nf4 if self.bits == 4 else to_int8
        for module in subject.model.modules():
            if isinstance(module, torch.nn.Linear) and module is not head:
                subject.change_weight(module.weight, lambda weight: rounded(weight.float()))


def to_int8(weight: Tensor) -> Tensor:
    """(out, in) -> the same, each row at one of the 255 multiples of its largest / 127."""
    scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
    return (weight / scale).round() * scale


def to_nf4(weight: Tensor) -> Tensor:
    """Any shape -> the same, each 64 values at one of sixteen multiples of their largest."""
    import torch

    flat = torch.nn.functional.pad(weight.flatten(), (0, -weight.numel() % BLOCK)).view(-1, BLOCK)
    scale = flat.abs().amax(dim=1, keepdim=True).clamp_min(1e-12)
    values = torch.tensor(NF4, device=weight.device)
    borders = (values[1:] + values[:-1]) / 2
    rounded = values[torch.bucketize(flat / scale, borders)] * scale
    return rounded.flatten()[: weight.numel()].view_as(weight)
