"""Conditions on sites: why a site is not meant."""

from __future__ import annotations

import pytest

from sesurgery.errors import InputError
from sesurgery.recipe.selectors import SiteFacts
from sesurgery.recipe.where import Where

# Conditions on sites
SITE = SiteFacts(
    paths=("layer4.0", "layer4.0.conv2"),
    types=("Bottleneck", "Module"),
    stage=4,
    stages=4,
    block=0,
    blocks=3,
    channels=512,
    kernel=(3, 3),
    stride=2,
    has=frozenset({"residual add", "projection"}),
)


@pytest.mark.parametrize(
    ("where", "reason"),
    [
        ({}, None),
        ({"stages": "last"}, None),
        ({"stages": 3}, "in stage 4, not in 3"),
        ({"blocks": "1:"}, "in block 0 of its stage, not in 1:"),
        ({"type": ["Basic*", "Bottle*"]}, None),
        ({"type": "Basic*"}, "in a Bottleneck, not in a Basic*"),
        ({"path": "layer4.*.conv2"}, None),
        ({"path": "layer3.*"}, "its path does not match layer3.*"),
        ({"channels": ">=512"}, None),
        ({"channels": "<512"}, "channels 512, not <512"),
        ({"kernel": "5,7"}, "kernel 3x3, not 5,7"),
        ({"stride": 1}, "stride 2, not 1"),
        ({"has": ["residual add", "projection"]}, None),
        ({"has": ["residual add", "socket"]}, "has no socket"),
        ({"not": {"type": "Bottleneck"}}, "left out by where.not: type Bottleneck"),
        ({"not": {"type": "Bottleneck", "channels": "<512"}}, None),
    ],
)
def test_why_a_site_is_not_meant(where, reason):
    assert Where.model_validate(where).mismatch(SITE) == reason


def test_a_site_outside_all_stages():
    assert Where().mismatch(SiteFacts()) is None
    assert Where(stages="1").mismatch(SiteFacts(stages=4)) == "outside all stages, not in 1"
    with pytest.raises(InputError, match="this model has stages 1-4"):
        Where(stages="7").mismatch(SITE)
