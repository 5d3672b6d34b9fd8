"""Running a sentence-transformers model whose vectors are more than pooled token vectors."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Generic, Literal, TypeAlias, TypeVar

from situate.embedders.models.files import loading
from situate.embedders.models.resolve import LoadOptions, ResolvedModel, resolve_model
from situate.embedders.types import DType, Role, checked_texts
from situate.errors import InputError, ModelError, TruncationWarning
from situate.threads import ThreadPool

V = TypeVar("V")
Kind: TypeAlias = Literal["MultiVectorEncoder", "SentenceTransformer", "SparseEncoder"]


class LibraryModel:
    """A model that sentence-transformers loads and runs, on a thread of its own.

    Cheap to construct: weights are loaded by the first text. Pickles as its configuration. May be used by many threads
    and event loops at once, and after a fork; their calls run one after the other.

    Args:
        kind: The class of sentence-transformers.
        model: A model folder or a hub id.
        device: "auto", or a torch device.
        dtype: Format of the weights.
        batch_size: Texts that are run together.
        options: How the model's files are read.
    """

    def __init__(
        self,
        kind: Kind,
        model: str,
        *,
        device: str,
        dtype: DType,
        batch_size: int,
        options: LoadOptions,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}: it has to be 1 or more")
        if dtype == "int8":
            raise InputError(
                f"dtype 'int8' is for BERT-style models that situate runs itself, and {model!r} is run by "
                "sentence-transformers: use dtype='auto'"
            )
        self.model = model
        self.batch_size = batch_size
        self._kind = kind
        self._device = device
        self._dtype: DType = dtype
        self.load_options = options
        self._forget()

    def _forget(self) -> None:
        self._thread = ThreadPool(1, f"situate-{self._kind}")
        self._loaded_: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_thread", "_loaded_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    @property
    def resolved(self) -> ResolvedModel:
        """The model's files."""
        return resolve_model(self.model, self.load_options)

    def run(self, work: Callable[[Any], Any]) -> Any:
        """``work`` on the loaded model, in the model's thread."""
        return self._thread.submit(self._done, work).result()

    async def arun(self, work: Callable[[Any], Any]) -> Any:
        """`run` without blocking the event loop."""
        return await asyncio.wrap_future(self._thread.submit(self._done, work))

    def fingerprint(self) -> dict[str, Any]:
        """What decides a vector, as JSON values."""
        resolved = self.resolved
        return {
            "model": resolved.id,
            "kind": self._kind,
            "revision": self.load_options.revision,
            "weights": resolved.digest,
        }

    def _done(self, work: Callable[[Any], Any]) -> Any:
        from situate.embedders.forward.cores import release_openmp_threads

        try:
            return work(self._loaded())
        finally:
            release_openmp_threads()

    def _loaded(self) -> Any:
        if self._loaded_ is None:
            import sentence_transformers

            from situate.embedders.local.devices import chosen_device, chosen_dtype

            resolved = self.resolved
            resolved.check_safe(self.load_options)
            device = chosen_device(self._device)
            dtype = chosen_dtype(self._dtype, device)
            if not hasattr(sentence_transformers, self._kind):
                version = sentence_transformers.__version__
                raise ModelError(f"sentence-transformers {version} has no {self._kind}: install 6.0 or newer")
            with loading("the model", resolved.path):
                self._loaded_ = getattr(sentence_transformers, self._kind)(
                    str(resolved.path),
                    device=str(device),
                    trust_remote_code=self.load_options.trust_remote_code,
                    # Allowed code may lie in another repository than the weights.
                    local_files_only=not self.load_options.trust_remote_code,
                    model_kwargs={
                        "dtype": dtype,
                        "use_safetensors": None if self.load_options.allow_pickle else True,
                    },
                )
        return self._loaded_


class RoleEmbedder(Generic[V]):
    """Base of the embedders that give one value per text, by the text's role. A subclass defines the value.

    Args:
        model: A model folder or a hub id.
        device: "auto", or a torch device.
        dtype: Format of the weights.
        batch_size: Texts that are run together.
        options: How the model's files are read.
    """

    #: The class of sentence-transformers.
    kind: ClassVar[Kind]
    #: Further arguments of its ``encode_query`` and ``encode_document``.
    arguments: Mapping[str, Any]

    def __init__(
        self, model: str | os.PathLike[str], *, device: str, dtype: DType, batch_size: int, options: LoadOptions
    ) -> None:
        self._library = LibraryModel(
            self.kind, os.fspath(model), device=device, dtype=dtype, batch_size=batch_size, options=options
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._library.model!r})"

    @property
    def dimension(self) -> int:
        """Length of a vector. Loads the model."""
        return int(self._library.run(lambda model: model.get_embedding_dimension()))

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides a vector, as JSON values."""
        return self._library.fingerprint()

    def _embed(self, texts: Sequence[str], role: Role) -> list[V]:
        wanted = checked_texts(texts)
        found: list[V] = self._library.run(lambda model: self._encode(model, wanted, role))
        return found

    async def _aembed(self, texts: Sequence[str], role: Role) -> list[V]:
        wanted = checked_texts(texts)
        found: list[V] = await self._library.arun(lambda model: self._encode(model, wanted, role))
        return found

    def _encode(self, model: Any, texts: list[str], role: Role) -> list[V]:
        """In the model's thread."""
        if not texts:
            return []
        warn_of_loss(model, texts, model.prompts.get(role) or "", self._limit(model, role))
        encode = model.encode_query if role == "query" else model.encode_document
        rows = encode(texts, batch_size=self._library.batch_size, show_progress_bar=False, **self.arguments)
        return [self._value(row, f"model {self._library.model!r} computed for text {i}") for i, row in enumerate(rows)]

    def _limit(self, model: Any, role: Role) -> int | None:
        """Tokens that the model reads of a text in this role."""
        limit: int | None = model.max_seq_length
        return limit

    def _value(self, row: Any, subject: str) -> V:
        """The value of one text; ``subject`` begins the message of a `NonFiniteVectorError`."""
        raise NotImplementedError


def warn_of_loss(model: Any, texts: Sequence[str], prompt: str, limit: int | None) -> None:
    """Warn of the texts and tokens that the library is about to cut off."""
    if limit is None or not texts:
        return
    # A token has a character at least, so most texts need not be counted.
    long = [prompt + text for text in texts if len(prompt) + len(text) > limit - 2]
    if not long:
        return
    counts = [len(ids) for ids in model.tokenizer(long, truncation=False, padding=False, verbose=False)["input_ids"]]
    lost = [count - limit for count in counts if count > limit]
    if lost:
        warnings.warn(
            f"{len(lost)} of {len(texts)} texts are longer than the {limit} tokens that the model reads and lost "
            f"{sum(lost)} tokens: split them into smaller chunks",
            TruncationWarning,
            stacklevel=4,
        )
