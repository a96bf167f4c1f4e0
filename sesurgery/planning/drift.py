"""How far the output of a model moves when it is operated on."""

from __future__ import annotations

import torch
from torch import nn

from sesurgery.planning.planner import Draft
from sesurgery.recording.nested import map_tensors, tensors_in


class Drift:
    """Runs a model before and after an operation on the same random input."""

    def __init__(self, model: nn.Module, draft: Draft) -> None:
        self.model = model
        self.args = draft.example
        self.before = self._output()

    def _output(self) -> list[torch.Tensor] | None:
        if any(parameter.is_meta for parameter in self.model.parameters()):
            return None
        generator = torch.Generator().manual_seed(0)
        tensor = next(iter(self.model.parameters()), torch.empty(0))

        def number(leaf: torch.Tensor) -> torch.Tensor:
            if not leaf.is_floating_point():
                return torch.zeros(leaf.shape, dtype=leaf.dtype, device=tensor.device)
            values = torch.randn(leaf.shape, generator=generator, dtype=torch.float32)
            return values.to(device=tensor.device, dtype=tensor.dtype)

        args = map_tensors(number, self.args)
        modes = {module: module.training for module in self.model.modules()}
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                output = self.model.eval()(*args)
        except Exception:
            return None  # a model that only runs on its own data has no drift to report
        finally:
            for module, mode in modes.items():
                if module.training != mode:
                    module.train(mode)  # it may do more than set a flag
        return tensors_in(output)

    def measured(self) -> float | None:
        """The relative distance of the outputs, or None where the model could not be run."""
        after = self._output()
        if self.before is None or after is None or len(after) != len(self.before):
            return None
        pairs = [(old.double(), new.double()) for old, new in zip(self.before, after, strict=True)]
        pairs = [(old, new) for old, new in pairs if old.shape == new.shape]
        moved = sum(float((new - old).square().sum()) for old, new in pairs) ** 0.5
        size = sum(float(old.square().sum()) for old, _ in pairs) ** 0.5
        return moved / size if size else moved
