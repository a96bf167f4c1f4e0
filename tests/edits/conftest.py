"""What the tests of edits share."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import shufflenet_v2_x1_0


@pytest.fixture(scope="module")
def shufflenet() -> nn.Module:
    """torchvision's ShuffleNetV2 1.0 with ten classes."""
    torch.manual_seed(1)
    return shufflenet_v2_x1_0(weights=None, num_classes=10).eval()
