"""Two fingerprints that differ: the difference is named, setting by setting, and nothing that is the same."""

from __future__ import annotations

from situate.embedders.fingerprints import differences


def test_each_setting_that_differs_is_named_with_both_values() -> None:
    before = {"model": "MiniLM", "max_tokens": None, "scheme": {"late": False, "window": None}, "layers": 3}
    now = {"model": "MiniLM", "max_tokens": 128, "scheme": {"late": True, "window": None}, "end_token": True}
    assert differences(before, now) == (
        "max_tokens=None (now 128), scheme.late=False (now True), layers=3 (now None), end_token=None (now True)"
    )


def test_a_long_value_is_shortened_and_a_difference_without_a_name_still_shown() -> None:
    assert len(differences({"query": "a" * 10_000}, {"query": "b" * 10_000})) < 200
    assert differences({"layers": None}, {}) == "other settings"
