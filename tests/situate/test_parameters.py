"""An unknown keyword argument is refused with the name of the right one."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import pytest

from situate.errors import InputError
from situate.parameters import checked_parameters, right_name


@checked_parameters
@dataclass(frozen=True)
class Settings:
    """A value."""

    model: str = "m"
    max_tokens: int = 3


@checked_parameters
class Longer(Settings):
    """A subclass with a parameter more."""

    def __init__(self, model: str, *, threshold: float = 0.5) -> None:
        super().__init__(model=model)
        object.__setattr__(self, "threshold", threshold)


@pytest.mark.parametrize(
    ("given", "right"),
    [("model_name", "model"), ("max_length", "max_tokens"), ("max_token", "max_tokens"), ("colour", None)],
)
def test_names_what_was_meant(given: str, right: str | None) -> None:
    assert right_name(given, ["model", "max_tokens"]) == right
    with pytest.raises(InputError, match=rf"Settings does not know {given}=.*it takes model, max_tokens") as caught:
        Settings(**{given: 1})
    assert ("(here it is" in str(caught.value)) == (right is not None)


def test_a_class_stays_what_it_is() -> None:
    assert Settings(max_tokens=5) == Settings("m", 5)
    assert list(inspect.signature(Settings).parameters) == ["model", "max_tokens"]
    assert Longer("x", threshold=0.25).model == "x"
    with pytest.raises(InputError, match=r"Longer does not know score_threshold= \(here it is threshold=\)"):
        Longer("x", score_threshold=1)
    with pytest.raises(TypeError, match="required positional argument"):
        Longer()
