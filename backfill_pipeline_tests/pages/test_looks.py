"""Colours can be told apart by everybody, in both schemes: WCAG 2.2, 1.4.3 and 1.4.11, computed."""

from collections.abc import Mapping

import pytest

from backfill_pipeline.pages.looks import DARK, LIGHT, STYLE

SCHEMES = pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])


def luminance(color: str) -> float:
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_what_the_standard_says() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@SCHEMES
def test_text_can_be_read(scheme: Mapping[str, str]) -> None:
    for text in ("ink", "muted", "link"):
        for ground in ("back", "soft"):
            assert contrast(scheme[text], scheme[ground]) >= 4.5, (text, ground)
    for badge in ("good", "open", "bad"):
        assert contrast(scheme["on-badge"], scheme[badge]) >= 4.5, badge
        assert contrast(scheme[badge], scheme["back"]) >= 3, badge


@SCHEMES
def test_shapes_can_be_seen(scheme: Mapping[str, str]) -> None:
    for name, color in scheme.items():
        if name.startswith("series-"):
            assert contrast(color, scheme["back"]) >= 3, name


def test_both_schemes_have_the_same_colours_and_rules_use_no_other() -> None:
    assert LIGHT.keys() == DARK.keys()
    rules = STYLE.split("* { box-sizing", 1)[1]
    assert "#" not in rules
