"""Numbers as people read them."""

from __future__ import annotations

import pytest

from sesurgery.report.layout import percent, si


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (512, "512"),
        (811_008, "811.01 k"),
        (4_089_184_256, "4.09 G"),
        (999_999_999, "1.00 G"),
        (-1_579_392, "-1.58 M"),
    ],
)
def test_si_numbers(number: int, text: str) -> None:
    assert si(number) == text


def test_differences_carry_their_sign() -> None:
    assert si(1_579_392, sign=True) == "+1.58 M"
    assert si(0, sign=True) == "0"
    assert percent(25_557_032, 27_136_424) == "+6.18 %"
    assert percent(0, 5) == ""
