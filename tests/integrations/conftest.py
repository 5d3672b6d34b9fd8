"""Shared by both frameworks' tests."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.fixture(scope="session", autouse=True)
def held(loaded_once: list[Any]) -> list[Any]:
    """The real weights, which most modules use."""
    return loaded_once
