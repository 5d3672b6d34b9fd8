"""LibraryEncoder: the models whose vectors are more than pooled token vectors, run whole by sentence-transformers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from situate.embedders.library.model import LibraryModel, warn_of_loss
from situate.embedders.models.files import count, read_modules
from situate.embedders.models.registry import family_of
from situate.embedders.models.resolve import LoadOptions
from situate.embedders.text.tokenizer import TextTokenizer
from situate.embedders.types import DType, Encoded, Role, SpanText, Vectors, check_plain
from situate.errors import ConventionError, InputError, UnsafeModelError
from situate.parameters import checked_parameters
from situate.vectors import check_finite, unit

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: mteb and the model's own notebooks draw with this seed.
_SEED = 42


def corpus_sample(texts: Sequence[str], size: int) -> tuple[str, ...]:
    """``size`` of the texts, always the same ones; some repeat where there are fewer.

    Exactly ``size`` texts are the sample themselves, in their order, so that a sample of a sample is that sample.

    Args:
        texts: Passages of the corpus that will be searched.
        size: How many are wanted.

    Raises:
        InputError: There are no texts.
    """
    if not texts:
        raise InputError("corpus holds no text: give passages of the corpus that will be searched")
    if len(texts) == size:
        return tuple(texts)
    chosen = np.random.default_rng(_SEED).choice(len(texts), size=size, replace=len(texts) < size)
    return tuple(texts[i] for i in chosen.tolist())


@checked_parameters
class LibraryEncoder:
    """Whole texts to vectors, by sentence-transformers' `SentenceTransformer` and all its modules.

    For models that `Encoder` would get wrong: task adapters chosen in each call (Jina v3 to v5), a latent attention
    layer (NV-Embed), static embeddings, several poolings beside each other, a repository's own modules. `Embedder`
    takes it by itself where a model needs it. There are no spans and no token vectors, so late chunking is refused.

    Contextual Document Embeddings (Morris and Rush 2024) read a sample of the corpus first, and each text beside that
    sample's vectors. Queries and documents have to see the same sample, so it decides the index: the collection keeps
    it and gives it to an encoder without one. `fingerprint` holds its digest, and an index refuses an encoder with
    another one.

        >>> encoder = LibraryEncoder("jxm/cde-small-v2", corpus=passages, trust_remote_code=True)  # doctest: +SKIP
        >>> Embedder("jxm/cde-small-v2", encoder=encoder)  # doctest: +SKIP

    Cheap to construct: weights are loaded by the first text. Pickles as its configuration. May be used by many threads
    and event loops at once; their calls run one after the other.

    Args:
        model: A model folder or a hub id.
        query_options: Arguments of the model's own code for queries (``{"task": "retrieval.query"}``);
            None: the family's own.
        document_options: Likewise for documents.
        corpus: Passages of the corpus, for the models that read a sample of it; as many as the model wants are drawn.
            Needed for a new index only.
        normalize: Whether vectors get L2 norm 1.
        max_tokens: Tokens that a text is cut to; None for the model's own.
        device: "auto", or a torch device.
        dtype: Format of the weights. "auto" is the fastest that the hardware computes in; "float32" is exact.
        batch_size: Texts that are run together.
        revision: A branch, tag or commit of the hub's repository.
        trust_remote_code: Run the Python files of the model's repository.
        allow_pickle: Read pickled weights, which can run any code.

    Raises:
        InputError: ``corpus`` is one string instead of a list of passages, or ``batch_size`` is less than 1.
    """

    pools_spans = False

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        query_options: Mapping[str, str] | None = None,
        document_options: Mapping[str, str] | None = None,
        corpus: Sequence[str] | None = None,
        normalize: bool = True,
        max_tokens: int | None = None,
        device: str = "auto",
        dtype: DType = "auto",
        batch_size: int = 32,
        revision: str | None = None,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
    ) -> None:
        if isinstance(corpus, str):
            raise InputError(f"corpus is one string ({corpus[:40]!r}): give a list of passages")
        family = family_of(os.fspath(model))
        known = ((), ()) if family is None else (family.query_options, family.document_options)
        self.options: dict[Role, dict[str, str]] = {
            "query": dict(known[0] if query_options is None else query_options),
            "document": dict(known[1] if document_options is None else document_options),
        }
        self.normalize = normalize
        self._max_tokens = max_tokens
        self._corpus = None if corpus is None else tuple(corpus)
        self._wants_corpus = corpus is not None or (family is not None and family.corpus)
        self._prompt = None if family is None else family.document_instruction()
        self._context: Any = None
        self._dimension: int | None = None
        self._library = LibraryModel(
            "SentenceTransformer",
            os.fspath(model),
            device=device,
            dtype=dtype,
            batch_size=batch_size,
            options=LoadOptions(revision, trust_remote_code, allow_pickle),
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_context": None}

    def __repr__(self) -> str:
        return f"LibraryEncoder({self._library.model!r})"

    @property
    def dimension(self) -> int:
        """Length of a vector. Loads the model."""
        if self._dimension is None:
            self._dimension = int(self._library.run(self._measured))
        return self._dimension

    @property
    def max_tokens(self) -> int:
        """Tokens that a text is cut to; a very large number where the model has no end. Loads the model."""
        limit = self._library.run(lambda model: self._limit(model))
        return 1 << 30 if limit is None else int(limit)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer without truncation and padding. Loads no weights.

        Raises:
            ConventionError: It has one in plain Python only.
        """
        root = self._library.resolved.path
        modules = read_modules(root)
        folder = root / str(modules[0].get("path") or "") if modules else root
        backend = TextTokenizer.load(folder, self._library.load_options).backend
        if backend is None:
            raise ConventionError(
                f"model {self._library.model!r} has a tokenizer in plain Python only, which chunkers cannot use: "
                "size chunks in characters (a chunker without a tokenizer)"
            )
        return backend

    @property
    def sample(self) -> tuple[str, ...] | None:
        """The passages of the corpus that the model reads first; None for models that read none.

        Passed as ``corpus``, it gives the same sample.

        Raises:
            ConventionError: The model reads a sample, and there is none yet.
        """
        if not self._wants_corpus:
            return None
        if self._corpus is None:
            raise ConventionError(
                f"model {self._library.model!r} reads a sample of the corpus before anything else: pass "
                "encoder=LibraryEncoder(..., corpus=passages), with passages of the corpus that will be searched"
            )
        size = count(self._library.resolved.config, "transductive_corpus_size", self._library.resolved.path) or 512
        return corpus_sample(self._corpus, size)

    def provide(self, sample: Sequence[str]) -> None:
        """Set the sample that a collection kept. An encoder that has one, or reads none, stays as it is."""
        if self._wants_corpus and self._corpus is None:
            self._corpus = tuple(sample)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides a document's vector, as JSON values."""
        sample = self.sample
        digest = None if sample is None else hashlib.sha256("\0".join(sample).encode("utf-8", "replace")).hexdigest()
        return {**self._library.fingerprint(), "options": self.options["document"], "corpus": digest}

    def encode(
        self, inputs: Sequence[SpanText], *, token_vectors: bool = False, role: Role = "document"
    ) -> list[Encoded]:
        """One result per text, in order.

        Args:
            inputs: Texts, without spans.
            token_vectors: Refused: the library gives none.
            role: Whether the texts are queries or documents.

        Raises:
            ConventionError: Spans or token vectors are requested, or a sample of the corpus is missing.
            NonFiniteVectorError: The model computed NaN or infinity.
            UnsafeModelError: The model needs its repository's own code or pickled weights, and neither is allowed.
            ModelError: The model cannot be used.
        """
        self._check(inputs, token_vectors)
        return self._encoded(self._library.run(lambda model: self._run(model, inputs, role)))

    async def aencode(
        self, inputs: Sequence[SpanText], *, token_vectors: bool = False, role: Role = "document"
    ) -> list[Encoded]:
        """`encode` without blocking the event loop."""
        self._check(inputs, token_vectors)
        return self._encoded(await self._library.arun(lambda model: self._run(model, inputs, role)))

    def _check(self, inputs: Sequence[SpanText], token_vectors: bool) -> None:
        check_plain(inputs, "sentence-transformers")
        if token_vectors or any(item.spans is not None for item in inputs):
            raise ConventionError(
                f"model {self._library.model!r} is run whole by sentence-transformers, which returns one vector per "
                "text: no late chunking, no situated windows, no token vectors. ChunkScheme(neighbours=0.35) and "
                "ChunkScheme(context=('headings',)) work with it"
            )
        if self._wants_corpus and not self._library.load_options.trust_remote_code:
            raise UnsafeModelError(
                f"model {self._library.model!r} needs its repository's own code: pass trust_remote_code=True if you "
                "have read it and trust its author"
            )

    def _run(self, model: Any, inputs: Sequence[SpanText], role: Role) -> Vectors:
        """In the model's thread: each text after its prompt, which the library can leave out of the mean."""
        found: list[Vectors] = [np.zeros(0, dtype=np.float32)] * len(inputs)
        by_prompt: dict[str, list[int]] = {}
        for number, item in enumerate(inputs):
            by_prompt.setdefault(item.text[: item.prefix], []).append(number)
        for prompt, numbers in by_prompt.items():
            texts = [inputs[number].text[len(prompt) :] for number in numbers]
            for number, vector in zip(numbers, self._vectors(model, texts, prompt, role), strict=True):
                found[number] = vector
        return np.stack(found) if found else np.zeros((0, 0), dtype=np.float32)

    def _vectors(self, model: Any, texts: Sequence[str], prompt: str, role: Role) -> Vectors:
        limit = self._limit(model)
        warn_of_loss(model, texts, prompt, limit)
        vectors: Vectors = self._called(model, texts, prompt, role, **self._sample_arguments(model))
        return vectors.astype(np.float32, copy=False)

    def _called(self, model: Any, texts: Sequence[str], prompt: str, role: Role, **more: Any) -> Any:
        # A Router chooses its branch by the role; other modules that take a task mean something else by it.
        routed = {"task": role} if any(type(module).__name__ in ("Router", "Asym") for module in model) else {}
        return model.encode(
            list(texts),
            prompt=prompt,
            batch_size=self._library.batch_size,
            show_progress_bar=False,
            **{"convert_to_numpy": True, **routed, **self.options[role], **more},
        )

    def _sample_arguments(self, model: Any) -> dict[str, Any]:
        """The sample's vectors, computed once, for the models that read them."""
        sample = self.sample
        if sample is None:
            return {}
        if self._context is None:
            prompt = model.prompts.get("document") or "" if self._prompt is None else self._prompt
            self._context = self._called(
                model, sample, prompt, "document", convert_to_numpy=False, convert_to_tensor=True
            )
        return {"dataset_embeddings": self._context}

    def _limit(self, model: Any) -> int | None:
        if self._max_tokens is not None:
            model.max_seq_length = self._max_tokens
        limit = model.max_seq_length
        return None if limit is None or not np.isfinite(limit) else int(limit)

    def _measured(self, model: Any) -> int:
        known = model.get_embedding_dimension()
        return int(known) if known else self._vectors(model, ["a"], "", "document").shape[1]

    def _encoded(self, vectors: Vectors) -> list[Encoded]:
        check_finite(vectors, f"model {self._library.model!r} computed")
        if self.normalize:
            vectors = unit(vectors)
        return [Encoded(vectors[i : i + 1]) for i in range(len(vectors))]
