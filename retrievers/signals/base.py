"""The seam of signals: what a collection stores for one, and how a search compares it."""

from __future__ import annotations

import importlib
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, is_dataclass
from functools import cached_property
from numbers import Integral, Real
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias, TypeVar
from weakref import WeakValueDictionary

import numpy as np

from situate.embedders.types import SparseVector as Weights, Vectors
from situate.errors import InputError
from situate.types import Chunk, Context, Document

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.embedders.embedder import Embedder
    from situate.embedders.types import ChunkVectors
    from situate.retrievers.index.lexical import SparseVector
    from situate.retrievers.search.query_vectors import QueryVectors, WrittenQuery

T = TypeVar("T")
#: A dense vector ``[dimension]``, a multivector ``[rows, dimension]``, or weights of terms.
Value: TypeAlias = "Vectors | SparseVector"
#: Per document, per chunk, the value that is stored; None, or a multivector without rows, for none.
Values: TypeAlias = "Sequence[Sequence[Value | None] | Vectors]"
#: "find": the signal's nearest points are candidates, and have its share of the fused score. "raise": they are
#: candidates, and raise the dense similarity. "document": documents of candidates are scored. "rescore": the best
#: candidates are scored by MaxSim.
Stage: TypeAlias = Literal["find", "raise", "document", "rescore"]


#: Types of fields, as they are written, and the class of their values; fields of other types check themselves.
_TYPES: Mapping[str, Any] = {
    "int": Integral,
    "float": Real,
    "str": str,
    "None": type(None),
    "tuple[str, ...]": tuple,
    "Mapping[str, Any]": Mapping,
}


@dataclass(frozen=True)
class Batch:
    """Documents that are indexed together, and what was computed for all signals.

    Attributes:
        items: Documents and their chunks, in order.
        embedder: The index's.
        dense: Per document, float32 ``[chunks, dimension]``.
        tokens: Per document, a float32 ``[tokens, dimension]`` per chunk; None where no signal needs them.
        terms: Per document, the weights of words per chunk, where the embedder has ``token_heads``; else None.
    """

    items: Sequence[tuple[Document, Sequence[Chunk]]]
    embedder: Embedder
    dense: Sequence[Vectors]
    tokens: Sequence[Sequence[Vectors]] | None = None
    terms: Sequence[Sequence[Weights]] | None = None
    _made: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls, items: Sequence[tuple[Document, Sequence[Chunk]]], embedder: Embedder, made: Sequence[ChunkVectors]
    ) -> Batch:
        """The batch of documents whose vectors the index's embedder made."""
        tokens = None if all(each.tokens is None for each in made) else [each.tokens or () for each in made]
        terms = None if all(each.terms is None for each in made) else [each.terms or () for each in made]
        return cls(items, embedder, [each.dense for each in made], tokens, terms)

    @cached_property
    def chunks(self) -> list[Chunk]:
        """The chunks of all documents."""
        return [chunk for _, chunks in self.items for chunk in chunks]

    def of_documents(self, rows: Sequence[T]) -> list[list[T]]:
        """One value per chunk of all documents -> per document, those of its chunks."""
        return groups(rows, [len(chunks) for _, chunks in self.items])

    def once(self, key: Any, make: Callable[[], T]) -> T:
        """What ``make`` returns, computed once for all signals that ask by the same key."""
        if key not in self._made:
            self._made[key] = make()
        made: T = self._made[key]
        return made


@dataclass(frozen=True, kw_only=True)
class Signal(ABC):
    """One named vector of a collection: how chunks get it, how queries are compared with it, what it counts.

    Signals are values: cheap to make, pickled as they are; a model that is named is loaded by the first text.

    Attributes:
        weight: Share in the fused score, in [0, 1]; 0 stores the signal and leaves it out of searches.
        name: The vector's name in the collection; "" for the kind.

    Raises:
        InputError: ``weight`` is not in [0, 1], or a value is of another type than its field.
    """

    #: The name of the signal's module, by which JSON chooses it.
    kind: ClassVar[str]
    stage: ClassVar[Stage] = "find"
    #: The forms of `PipelineConfig.compression` that its vectors take.
    compressible: ClassVar[Collection[str]] = ()

    weight: float = 0.3
    name: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.kind)
        _check_fields(self)
        if not 0 <= self.weight <= 1:
            raise InputError(f"the weight of {self.name!r} is {self.weight}, a share: it must lie between 0 and 1")

    @property
    def step(self) -> str:
        """The key of the signal's score in ``hit.scores``."""
        return self.name

    @property
    def needs_tokens(self) -> bool:
        """Whether it needs the token vectors of the index's embedder."""
        return False

    def check(self, embedder: Embedder) -> None:  # noqa: B027 - most signals need no more than vectors
        """Refuse an index's embedder that cannot make what the signal needs of it. Loads nothing.

        Raises:
            InputError: It cannot.
        """

    @abstractmethod
    def stored(self) -> Mapping[str, Any]:
        """What decides the content of stored vectors, as JSON values: a part of the collection's fingerprint."""

    def agreeing_with(self, stored: Mapping[str, Any]) -> Self:
        """This signal, or one that stores what a collection of before has, where it would store another form now.

        Args:
            stored: As `stored` returned it for the collection's.
        """
        return self

    @abstractmethod
    def params(self, dimension: int, distance: models.Distance) -> models.VectorParams | models.SparseVectorParams:
        """The named vector.

        Args:
            dimension: Of the index's embedder.
            distance: How its vectors are compared.
        """

    @abstractmethod
    def encode(self, batch: Batch) -> Values:
        """The values of all chunks."""

    def ask(
        self, queries: Sequence[WrittenQuery], vectors: Sequence[QueryVectors], embedder: Embedder
    ) -> Sequence[Value] | None:
        """A value per query, where it takes a model or arithmetic; None where `query` returns another vector.

        Args:
            queries: The queries' texts.
            vectors: Their vectors by the index's embedder.
            embedder: The index's.
        """
        return None

    def query(self, vectors: QueryVectors) -> Value | None:
        """What the stored vectors are compared with; None leaves the signal out of this search."""
        return vectors.further.get(self.name)

    def to_json(self) -> dict[str, Any]:
        """The signal as JSON values, which `signal_from_json` reads.

        Raises:
            InputError: It holds a model that is loaded already: name the model instead.
        """
        values: dict[str, Any] = {"kind": self.kind}
        for each in fields(self):
            value = getattr(self, each.name)
            default = each.default if each.default_factory is MISSING else each.default_factory()
            if value == default:
                continue
            plain = asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
            try:
                values[each.name] = json.loads(json.dumps(plain))
            except TypeError as error:
                raise InputError(
                    f"the signal {self.name!r} holds a {type(value).__name__}, which JSON cannot: name the model "
                    f"({each.name}='...'), and give its other settings as options"
                ) from error
        return values


def signal_from_json(value: Any) -> Signal:
    """The signal that a value names: a `Signal` itself, its kind ("tokens"), or ``{"kind": ..., field: value, ...}``.

    Raises:
        InputError: The kind is unknown, a field is unknown or missing, or a value is refused.
    """
    if isinstance(value, Signal):
        return value
    given = {"kind": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping) or not isinstance(given.get("kind"), str):
        raise InputError(f'{value!r} is no signal: give a Signal, its kind, or {{"kind": ..., "weight": ...}}')
    cls = _class_of(given["kind"])
    known = {each.name: each for each in fields(cls)}
    settings: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in given.items() if name != "kind"
    }
    if unknown := settings.keys() - known.keys():
        raise InputError(
            f"a {cls.kind!r} signal has no {', '.join(sorted(map(str, unknown)))}: it takes {', '.join(known)}"
        )
    missing = [
        name
        for name, each in known.items()
        if each.default is MISSING and each.default_factory is MISSING and name not in settings
    ]
    if missing:
        raise InputError(f'the {cls.kind!r} signal needs {", ".join(missing)}: {{"kind": "{cls.kind}", "model": ...}}')
    return cls(**settings)


def _check_fields(signal: Signal) -> None:
    """Refuse values of other types, as JSON and YAML may hold them, and fields of the context that are none."""
    for each in fields(signal):
        value = getattr(signal, each.name)
        accepted = [_TYPES.get(name) for name in str(each.type).split(" | ")]
        if None not in accepted and (isinstance(value, bool) or not isinstance(value, tuple(filter(None, accepted)))):
            raise InputError(f"{each.name}={value!r} of a {type(signal).__name__} signal is no {each.type}")
        unknown = [name for name in value if name not in Context.__dataclass_fields__] if each.name == "context" else []
        if unknown:
            known = ", ".join(Context.__dataclass_fields__)
            raise InputError(f"context names {unknown[0]!r}, which is no field of Context: {known}")


def kinds() -> list[str]:
    """The kinds of signals, sorted: the modules of this folder that hold one for configurations."""
    package = importlib.import_module("situate.retrievers.signals")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if module.name not in _NOT_BY_NAME)


#: Modules without a kind: the seam, and the signals that every collection has by fields of `PipelineConfig`.
_NOT_BY_NAME = frozenset({"base", "chunk"})


def _class_of(kind: str) -> type[Signal]:
    if kind not in kinds():
        raise InputError(f"there is no signal of the kind {kind!r}: there are {', '.join(kinds())}")
    module = importlib.import_module(f"situate.retrievers.signals.{kind}")
    return next(
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, Signal) and each.__dict__.get("kind") == kind
    )


def situated(chunk: Chunk, context: Sequence[str]) -> str:
    """A chunk's text, with these fields of its context in front."""
    lead = chunk.context.render(context) if context else ""
    return f"{lead}\n{chunk.text}" if lead else chunk.text


#: Models by class, name and settings: two signals that name the same one hold it once.
_MODELS: WeakValueDictionary[tuple[Any, str, str], Any] = WeakValueDictionary()


def model_of(cls: Callable[..., T], given: Any, options: Mapping[str, Any], accepted: type | tuple[type, ...]) -> T:
    """The model that a signal holds or names.

    Args:
        cls: Made of a name.
        given: A model, or its name.
        options: Further arguments of ``cls``, for a name.
        accepted: What a model may be.

    Raises:
        InputError: It is neither, or there are options for a model that is made already.
    """
    if isinstance(given, accepted):
        if options:
            raise InputError(f"options {sorted(options)} are for a model's name: the given {given!r} has its own")
        model: T = given  # type: ignore[assignment]
        return model
    if not isinstance(given, str):
        kinds = accepted if isinstance(accepted, tuple) else (accepted,)
        names = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"a {type(given).__name__} is no model for this signal: give a {names}, or a model's name")
    key = (cls, given, json.dumps(options, sort_keys=True, default=repr))
    if (known := _MODELS.get(key)) is None:
        known = _MODELS[key] = cls(given, **options)
    found: T = known
    return found


def groups(rows: Sequence[T], lengths: Sequence[int]) -> list[list[T]]:
    """Rows in groups of these lengths."""
    ends = np.cumsum(lengths).tolist()
    return [list(rows[end - length : end]) for end, length in zip(ends, lengths, strict=True)]


def matrices(rows: Vectors, lengths: Sequence[int]) -> list[Vectors]:
    """float32 ``[rows, dimension]`` in matrices of so many rows each."""
    ends = np.cumsum(lengths).tolist()
    return [rows[end - length : end] for end, length in zip(ends, lengths, strict=True)]
