"""An argument of a wrong name is refused with the right one, and one of a wrong type with what it takes."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import pytest

from situate.chunkers import (
    AutoChunker,
    KeyphraseSituator,
    LLMSituator,
    MarkdownChunker,
    SemanticChunker,
    TextChunker,
)
from situate.chunkers.readers.files import read_documents
from situate.embedders import ChunkScheme
from situate.errors import InputError, UnknownArgumentError
from situate.parameters import checked_parameters, right_name
from situate.retrievers import Index, LexicalScheme, PipelineConfig, Recency
from situate.retrievers.signals import Questions
from situate.retrievers.storage.edge import EdgeClient


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


@pytest.mark.parametrize(
    ("cls", "given", "right"),
    [
        (Index, "collection_name", "collection"),
        (Index, "text_splitter", "chunker"),
        (PipelineConfig, "compresion", "compression"),
        (LexicalScheme, "languages", "language"),
        (TextChunker, "chunk_size", "size"),
        (MarkdownChunker, "chunk_overlap", "overlap"),
        (AutoChunker, "chunk_size", "size"),
        (SemanticChunker, "sizes", "size"),
        (LLMSituator, "llm", "generator"),
        (KeyphraseSituator, "countt", "count"),
        (Questions, "weigth", "weight"),
        (Recency, "wieght", "weight"),
        (EdgeClient, "location", "path"),
    ],
)
def test_classes_that_are_configured_name_the_parameter_that_was_meant(cls: type, given: str, right: str) -> None:
    with pytest.raises(UnknownArgumentError, match=rf"{cls.__name__} does not know {given}= \(here it is {right}=\)"):
        cls(**{given: 1})


Size: TypeAlias = Literal["small", "large"]


@checked_parameters
@dataclass(frozen=True)
class Typed:
    """A value with parameters of each type that is held to."""

    count: int = 1
    share: float = 0.5
    place: str | Path | None = None
    on: bool = False
    size: Size | None = "small"
    api_key: str | None = None
    parts: tuple[str, ...] = ()
    within: int = 1

    def __post_init__(self) -> None:
        if self.within > 3:
            raise InputError("within is too large")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": "3"}, r"Typed\(count=\) is '3': it has to be a whole number$"),
        ({"count": True}, "count=.*True.*whole number"),
        ({"count": None}, "count=.*None.*whole number"),
        ({"share": "x"}, r"share=.*'x'.*a number$"),
        ({"place": 3}, "place=.*3.*a string or a path or None"),
        ({"on": "no"}, "on=.*'no'.*True or False"),
        ({"size": 3}, "size=.*3.*'small' or 'large' or None"),
        ({"api_key": b"sk-1"}, r"api_key=\) is a bytes: it has to be a string or None"),
        ({"within": "9"}, "within=.*'9'.*a whole number"),
        ({"within": 9}, "^within is too large$"),
    ],
)
def test_a_wrong_type_is_refused_by_name(given: dict[str, object], message: str) -> None:
    """Where the class's own check says nothing, or fails over it; keys are not shown."""
    with pytest.raises(InputError, match=message) as caught:
        Typed(**given)  # type: ignore[arg-type]
    assert "sk-1" not in str(caught.value)


def test_values_that_are_as_good_are_taken() -> None:
    """numpy's numbers, whole numbers for others, paths, and whatever an annotation of another kind means."""
    Typed(np.int64(3), np.float32(0.5), Path("x"), bool(np.bool_(True)), None, None, ["a"], 2)  # type: ignore[arg-type]
    Typed(3, 1, "x", np.bool_(True), "large")  # type: ignore[arg-type]


def test_public_parameters_of_a_wrong_type() -> None:
    with pytest.raises(InputError, match=r"ChunkScheme\(neighbours=\) is 'x': it has to be a number"):
        ChunkScheme(neighbours="x")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"read_documents\(max_pages=\) is '3': it has to be a whole number or None"):
        read_documents(".", max_pages="3")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"read_documents\(follow_symlinks=\) is 'no'"):
        read_documents(".", follow_symlinks="no")  # type: ignore[arg-type]
