"""Embedder: queries, documents and chunks -> vectors, each written as its model was trained to read it."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Any, Self, get_args

import numpy as np

from situate.embedders.bridge import Bridge
from situate.embedders.build import build_encoder
from situate.embedders.centre import SAMPLE, centre_of
from situate.embedders.models.conventions import check_dimensions
from situate.embedders.models.extension import Extension, Method
from situate.embedders.models.families import Family, Similarity
from situate.embedders.models.prompts import PromptFamily
from situate.embedders.models.quantized import Weights
from situate.embedders.models.resolve import DEFAULT_MODEL
from situate.embedders.models.settings import EmbedderSettings, check_mean_layers
from situate.embedders.profile import ModelProfile
from situate.embedders.querier import QUESTIONS, check_dimensions as check_pair, check_space
from situate.embedders.schemes import Plan, Request, check_scheme, finish, mixes, plan
from situate.embedders.types import (
    ChunkScheme,
    ChunkVectors,
    DType,
    Encoded,
    Overflow,
    Pooling,
    Role,
    Span,
    SpanEncoder,
    SpanText,
    SparseVector,
    Vectors,
    checked_texts,
    pools_spans,
)
from situate.errors import ConventionError, OverflowLimitError, SituateWarning, SpanError
from situate.parameters import checked_parameters
from situate.progress import Told, listener, listening
from situate.types import Chunk, Document
from situate.vectors import check_finite, unit

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Item = tuple[Document, Sequence[Chunk]]


@checked_parameters
class Embedder:
    """Embeds queries, documents and chunks with one model, over any `SpanEncoder`.

    A query and a document are never embedded by the same call, because their instructions differ. The instructions,
    the pooling and the lengths come from the model's own sentence-transformers files, else from the registry of
    families, and arguments given here override both. `describe` prints what the model will read.

    Cheap to construct; copies and pickles as its `settings`, the one frozen value that holds all arguments
    (`from_settings` makes an embedder of it). The first property that needs the model's files looks them up, and the
    first text loads the weights. Embedders of one process with the same model and settings share one loaded `Encoder`.
    May be used by many threads and event loops at once.

    An empty or white-space text is embedded like any other: it gets the vector of the model's special tokens (and
    the instruction), or a zero vector where the model has none. Nothing fails, and nothing is skipped.

    Args:
        model: A model folder or hub id. With ``encoder``, the name whose conventions hold for what it serves.
        query_instruction: What stands before a query; "" for nothing, None for the model's own.
        document_instruction: What stands before a document, likewise. ``{title}`` in it is replaced by the title.
        task: The task that the query instruction names, for models that take one (E5-instruct, Qwen3, ...); or the
            name of one of the prompts in the model's folder; or the task adapter of a model whose own code has some
            (Jina v3 to v5), or the language (SONAR), for queries and documents both.
        scheme: How chunks become vectors.
        dimensions: Keep only the first so many numbers of a vector (Matryoshka, Kusupati et al. 2022), renormalised.
        pooling: How token vectors become one; None for the model's own.
        family: A record in place of the registry's. Its instructions override the prompts in the model's
            folder; pooling and lengths that the folder names still hold (``pooling`` and ``max_tokens`` override them).
        prompts: How a language model that was not trained for embeddings is asked for a vector: a `PromptFamily`, its
            name ("eol", "metaeol", "promptbert", "echo", "promptreps"), or its JSON values.
        layers: Run only the model's first so many layers (2D Matryoshka, Li et al. 2024, for models trained so).
        mean_layers: Take the mean of the token vectors behind these layers, counted from 1, or from -1 back, in place
            of those behind the last one (WhiteningBERT, Huang et al. 2021: ``(1, -1)``): for models that were not
            trained for embeddings.
        device: "auto", or a torch device; or several, with a process for each (see `Encoder`).
        dtype: Format of the weights. "auto" is the fastest that the hardware computes in; "float32" is exact.
            "int8" is for BERT-style models on CPU: faster, at a cosine of about 0.998 to float32.
        adapters: Names of adapters (LoRA) and their folders or hub ids; needs the extra ``adapters``.
        adapter: The adapter that documents are embedded with, and queries as well unless ``query_adapter`` names
            another; None: the model itself. `using` gives the same embedder with another one.
        query_adapter: The adapter for queries, where a pair was trained for both sides; or the file of a linear map of
            their vectors (``.safetensors``), which `situate.retrievers.fit` writes, for any encoder.
        query_model: Another model for queries, where a pair shares a space (DPR, LEAF): its folder or hub id, which
            then takes ``query_instruction`` and ``task``, or an `Embedder` with settings of its own. Before the first
            documents are embedded it is checked that eight known questions find their passages.
        bridge: The file of a `Bridge` that takes the vectors of ``query_model`` into this model's space, of an index
            that is not embedded anew yet.
        extension: How a model reads ``max_tokens``, more than it was trained for.
        bidirectional: Let a decoder's tokens see those behind them (as LLM2Vec does before it trains).
        routing_weight: Of a mixture of experts, the weight of its routing, which then follows the hidden state in each
            vector (MoEE, Li and Zhou 2024); 0 for none, 1 weighs both parts alike.
        weights: "int8" or "int4": the weights of linear layers in so many bits, for models that are too large
            otherwise; needs the extra ``quantized``. Their vectors differ, so their index is another.
        token_heads: Make token vectors and the weights of words by the model's own heads (BGE-M3), in one pass with the
            dense vector; the signals "tokens" and "sparse" without a model store them.
        max_tokens: Tokens that a text is cut to, special tokens included; None for the model's own.
        on_overflow: How a longer text is treated: "warn" cuts it with a warning, "raise" refuses it, "window" reads it
            in windows. "auto" reads documents in windows and cuts queries with a warning; a model whose vector is one
            token's (CLS or last-token pooling), one that only sentence-transformers runs, and an `Index` on a
            collection that was built with cut documents, cut both.
        revision: A branch, tag or commit of the hub's repository.
        trust_remote_code: Run the Python files of the model's repository.
        allow_pickle: Read pickled weights, which can run any code.
        encoder: What turns texts into vectors, in place of the model's own `Encoder` (a server, say).

    Raises:
        InputError: A number is less than 1, or a setting is none of its choices. What depends on the model is checked
            when it is looked up.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        *,
        query_instruction: str | None = None,
        document_instruction: str | None = None,
        task: str | None = None,
        scheme: ChunkScheme | None = None,
        dimensions: int | None = None,
        pooling: Pooling | None = None,
        family: Family | None = None,
        prompts: PromptFamily | str | Mapping[str, Any] | None = None,
        layers: int | None = None,
        mean_layers: Sequence[int] | None = None,
        device: str | Sequence[str] = "auto",
        dtype: DType = "auto",
        adapters: Mapping[str, str | os.PathLike[str]] | None = None,
        adapter: str | None = None,
        query_adapter: str | os.PathLike[str] | None = None,
        query_model: str | os.PathLike[str] | Embedder | None = None,
        bridge: str | os.PathLike[str] | None = None,
        extension: Method | Extension | None = None,
        bidirectional: bool = False,
        routing_weight: float = 0.0,
        weights: Weights | None = None,
        token_heads: bool = False,
        max_tokens: int | None = None,
        on_overflow: Overflow = "auto",
        revision: str | None = None,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
        encoder: SpanEncoder | None = None,
    ) -> None:
        if isinstance(query_model, Embedder):
            query_settings: EmbedderSettings | str | None = query_model.settings
        else:
            query_settings = None if query_model is None else os.fspath(query_model)
        self._set(
            EmbedderSettings(
                model=os.fspath(model),
                query_instruction=query_instruction,
                document_instruction=document_instruction,
                task=task,
                scheme=ChunkScheme() if scheme is None else scheme,
                dimensions=dimensions,
                pooling=pooling,
                family=family,
                prompts=PromptFamily.of(prompts),
                layers=layers,
                mean_layers=check_mean_layers(mean_layers),
                device=device if isinstance(device, str) else tuple(device),
                dtype=dtype,
                adapters=tuple((name, os.fspath(folder)) for name, folder in (adapters or {}).items()),
                adapter=adapter,
                query_adapter=None if query_adapter is None else os.fspath(query_adapter),
                query_model=query_settings,
                bridge=None if bridge is None else os.fspath(bridge),
                extension=Extension.of(extension),
                bidirectional=bidirectional,
                routing_weight=routing_weight,
                weights=weights,
                token_heads=token_heads,
                max_tokens=max_tokens,
                on_overflow=on_overflow,
                revision=revision,
                trust_remote_code=trust_remote_code,
                allow_pickle=allow_pickle,
                encoder=encoder,
            )
        )

    @classmethod
    def from_settings(cls, settings: EmbedderSettings) -> Self:
        """The embedder that ``settings`` describe: ``Embedder.from_settings(embedder.settings)`` is the same again."""
        made = cls.__new__(cls)
        made._set(settings)
        return made

    def _set(self, settings: EmbedderSettings) -> None:
        self._settings = settings
        self._profile = ModelProfile(settings.documents)
        self._querier = None if settings.querier is None else Embedder.from_settings(settings.querier)
        self._found_bridge: Bridge | None = None
        self._unchecked: set[bool] = set() if settings.querier is None or settings.bridge is not None else {False, True}
        self._family: Family | None = None
        self._encoder: SpanEncoder | None = None
        self._centre: Vectors | None = None
        self._role_options: Mapping[Role, dict[str, Any]] = {}
        self._warned_of_window = False

    def __getstate__(self) -> EmbedderSettings:
        return self._settings

    def __setstate__(self, state: EmbedderSettings) -> None:
        self._set(state)

    def __repr__(self) -> str:
        engine = "" if self._settings.encoder is None else f", encoder={self._settings.encoder!r}"
        return f"Embedder({self.model!r}, scheme={self.scheme!r}{engine})"

    def using(self, adapter: str | None, query_adapter: str | None = None) -> Embedder:
        """The same embedder with another of its adapters. Cheap: both share the model and its loaded parts.

        Args:
            adapter: The adapter's name; None for the model itself.
            query_adapter: Another one for queries.

        Raises:
            InputError: There is no such adapter.
        """
        return self.from_settings(dataclasses.replace(self._settings, adapter=adapter, query_adapter=query_adapter))

    def instructed(self, instruction: str) -> Embedder:
        """The same embedder with another instruction for queries. Cheap: both share the model and its loaded parts.

        Args:
            instruction: The task, for models whose query instruction names one (E5-instruct, Qwen3, ...), or the name
                of a prompt in the model's folder; for other models what stands before a query, as it is.

        Raises:
            ModelError: The model cannot be looked up.
        """
        if self._querier is not None:
            told = self._querier.instructed(instruction).settings
            own = dataclasses.replace(self._settings.documents, query_model=told, bridge=self._settings.bridge)
            return self.from_settings(own)
        if "{task}" in self.family.leading:  # whose task is a language
            return self.from_settings(dataclasses.replace(self._settings, query_instruction=instruction))
        apart = dataclasses.replace(self._settings, task=None, query_instruction=instruction)
        if any(name == "task" for name, _ in self.family.document_options):
            return self.from_settings(apart)  # whose tasks are adapters, for documents as well
        tasked = self.from_settings(dataclasses.replace(apart, task=instruction, query_instruction=None))
        try:
            tasked.family  # noqa: B018 - looked up, which refuses a task that has no place
        except ConventionError:
            return self.from_settings(apart)
        return tasked

    def agreeing_with(self, fingerprint: Mapping[str, Any]) -> Embedder:
        """This embedder, or one that makes vectors as that fingerprint's did, where a later version makes others.

        With ``on_overflow="auto"`` it treats long documents likewise; neighbours are mixed likewise.

        Args:
            fingerprint: Of the embedder that a collection was built with.
        """
        changed: dict[str, Any] = {}
        if self._settings.on_overflow == "auto" and fingerprint.get("on_overflow") == "cut":
            changed = {} if self.fingerprint["on_overflow"] == "cut" else {"on_overflow": "warn"}
        if "scheme" in fingerprint and (scheme := self.scheme.agreeing_with(fingerprint["scheme"])) != self.scheme:
            changed["scheme"] = scheme
        return self.from_settings(dataclasses.replace(self._settings, **changed)) if changed else self

    @property
    def settings(self) -> EmbedderSettings:
        """All arguments of this embedder."""
        return self._settings

    @property
    def model(self) -> str:
        """The folder or hub id that was given."""
        return self._settings.model

    @property
    def adapter(self) -> str | None:
        """The name of the adapter that documents are embedded with."""
        return self._settings.adapter

    @property
    def query_adapter(self) -> str | None:
        """The name of the adapter that queries are embedded with, or the file of the map of their vectors."""
        return self._settings.query_map or self._settings.adapter_for("query")

    @property
    def token_heads(self) -> bool:
        """Whether the model's own heads make token vectors and the weights of words."""
        return self._settings.token_heads or bool(getattr(self._settings.encoder, "token_heads", False))

    @property
    def querier(self) -> Embedder:
        """What embeds queries: this embedder, or that of ``query_model``."""
        return self if self._querier is None else self._querier

    @property
    def _bridge(self) -> Bridge | None:
        if self._settings.bridge is not None and self._found_bridge is None:
            bridge = Bridge.load(self._settings.bridge)
            bridge.check(self, self.querier)
            self._found_bridge = bridge
        return self._found_bridge

    def _bridged(self, vectors: Vectors) -> Vectors:
        """Vectors of ``query_model`` in the space of the documents."""
        return vectors if self._bridge is None else self._bridge(vectors)

    def _check_tokens(self) -> None:
        if self._settings.bridge is not None:
            raise ConventionError(
                "a bridge takes a query's vector into the space of the documents, and not its token vectors: search "
                "without signals of tokens, or embed the index anew"
            )

    @property
    def scheme(self) -> ChunkScheme:
        """How chunks become vectors."""
        return self._settings.scheme

    @property
    def family(self) -> Family:
        """The conventions that hold for documents: the registry's, the model folder's and the user's, merged.

        Raises:
            ModelNotFoundError: The model's files cannot be found.
            ConventionError: A convention is one that situate cannot follow.
        """
        if self._family is None:
            self._family = self._profile.family
        return self._family

    @property
    def encoder(self) -> SpanEncoder:
        """What turns texts into vectors. Loads no weights.

        Raises:
            ModelError: The model cannot be used.
            InputError: ``dimensions`` is more than the model has.
            ConventionError: The vectors of ``query_model`` cannot be compared with this model's.
        """
        if self._encoder is None:
            with self._profile.lock:
                if self._encoder is None:
                    encoder = build_encoder(self._settings, self.family, self._profile.resolved)
                    check_dimensions(self._settings.dimensions, encoder.dimension, self.family)
                    if self._profile.query_map is not None:
                        self._profile.query_map.check_fits(self._profile.fingerprint(encoder))
                    if self._querier is not None and self._settings.bridge is None:
                        check_pair(self, self._querier, self._settings.dimensions or encoder.dimension)
                    self._role_options = _role_options(self._settings, encoder)
                    self._encoder = encoder
        return self._encoder

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        cut = self._settings.dimensions
        return self.encoder.dimension if cut is None else cut

    @property
    def similarity(self) -> Similarity:
        """How two vectors are compared: "cosine" (vectors have norm 1), or "dot" for the models trained so."""
        return self.family.similarity

    @property
    def max_tokens(self) -> int:
        """Tokens that a text is cut to (or a window holds), special tokens included.

        Raises:
            ConventionError: Neither the encoder nor the model's family has a number.
        """
        return self._profile.max_tokens(self.encoder)

    @property
    def trained_tokens(self) -> int:
        """Tokens that the model was trained to read at once: the window of late chunking.

        Raises:
            ConventionError: Neither the encoder nor the model's family has a number.
        """
        return self._profile.trained_tokens(self.encoder)

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer without truncation and padding. Needs no torch.

        Raises:
            ModelNotFoundError: The encoder has none of its own, and the model's files are not to be found.
            ModelError: The model has a tokenizer in plain Python only.
        """
        return self._profile.tokenizer(self.encoder)

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What decides a stored vector, as JSON values: two embedders with the same fingerprint can share an index.

        The query's instruction is not part of it, since queries with different instructions may search one index (see
        `query_fingerprint`), nor are device and number format, whose vectors agree to a cosine of about 0.9999. int8,
        which agrees to about 0.998, is part of it, and so is the ``query_model``, because another one's queries would
        find nothing.
        """
        return {
            **self._profile.fingerprint(self.encoder),
            **({} if self._querier is None or self._bridge is not None else {"query_model": self._querier.space}),
            "scheme": self.scheme.stored(),
        }

    @property
    def space(self) -> dict[str, Any]:
        """The part of `fingerprint` that decides the space of the vectors, of queries and documents alike."""
        whole = self._profile.fingerprint(self.encoder)
        return {name: value for name, value in whole.items() if not name.startswith(("document_", "on_overflow"))}

    @property
    def query_fingerprint(self) -> dict[str, Any]:
        """`fingerprint` and what decides a query's vector, for a cache of queries."""
        querier = self.querier
        family, adapter = querier.family, querier._profile.query_adapter()
        return {
            **self.fingerprint,
            **({} if adapter is None else {"query_adapter": adapter}),
            **({} if self._bridge is None else {"query_model": querier.space, "bridge": self._bridge.digest}),
            "query_instruction": family.query_instruction(),
            "query_suffix": family.query_suffix,
        }

    def describe(self) -> str:
        """The text that the model reads for a query and for a document, and the source of each convention. For people.

        Needs no weights. Where the model cannot be run here (its files are missing, or its own code is not allowed), it
        still shows the texts, and why the model cannot run.

        Raises:
            ModelNotFoundError: The files are missing, and the registry does not know the model.
        """
        from situate.embedders.describe import described

        return described(self, self._profile)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """float32 ``[texts, dimension]``, each text written as a query.

        Raises:
            InputError: ``texts`` is one string, or holds something that is none.
            OverflowLimitError: A text is too long and ``on_overflow="raise"``.
            NonFiniteVectorError: The model computed NaN or infinity.
            ModelError: The model cannot be used.
        """
        if self._querier is not None:
            return self._bridged(self._querier.embed_queries(texts))
        return self._queries(self._encode(self._written(texts, "query"), "query"))

    async def aembed_queries(self, texts: Sequence[str]) -> Vectors:
        """`embed_queries` without blocking the event loop."""
        if self._querier is not None:
            vectors = await self._querier.aembed_queries(texts)
            return vectors if self._settings.bridge is None else await asyncio.to_thread(self._bridged, vectors)
        await self._aready()
        return self._queries(await self._aencode(self._written(texts, "query"), "query"))

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """float32 ``[texts, dimension]``, each text written as a document. Errors as in `embed_queries`."""
        return self._rows(self._encode(self._written(texts, "document"), "document"))

    async def aembed_documents(self, texts: Sequence[str]) -> Vectors:
        """`embed_documents` without blocking the event loop."""
        await self._aready()
        return self._rows(await self._aencode(self._written(texts, "document"), "document"))

    def embed_chunks(self, document: Document, chunks: Sequence[Chunk]) -> Vectors:
        """float32 ``[chunks, dimension]``, by the embedder's scheme. Errors as in `encode_chunks`."""
        return self.encode_chunks([(document, chunks)])[0].dense

    async def aembed_chunks(self, document: Document, chunks: Sequence[Chunk]) -> Vectors:
        """`embed_chunks` without blocking the event loop."""
        return (await self.aencode_chunks([(document, chunks)]))[0].dense

    def encode_chunks(
        self, items: Sequence[Item], scheme: ChunkScheme | None = None, token_vectors: bool = False
    ) -> list[ChunkVectors]:
        """The vectors of many documents' chunks, encoded together so that the encoder's batches are full.

        Pass all chunks of a document: late chunking reads the document once for all of them, and neighbours are
        mixed only with chunks of the call. Chunks may come in any order and overlap.

        Args:
            items: Documents and their chunks.
            scheme: How they become vectors; None for the embedder's own.
            token_vectors: Also return each chunk's token vectors: late ones where the scheme is late. Special tokens
                and instructions have none, context has where ``pool_context`` says so.

        Raises:
            SpanError: A chunk is not the span of its document that it claims to be; the message names the first one.
            InputError: The scheme contradicts itself.
            ConventionError: The model is not suited to the scheme.
            NonFiniteVectorError: The model computed NaN or infinity.
            ModelError: The model cannot be used.
        """
        plans = self._plans(items, scheme, token_vectors)
        requests = [each.request() for each in plans]
        plain, tokens = _texts(requests)
        with listening(_listener(plain, tokens)):
            encoded = self._encode(plain, "document")
        with listening(_listener(tokens, plain)):
            encoded_tokens = self._encode(tokens, "document", tokens=True)
        if self._lacks_centre(plans):
            self._find_centre()
        return self._finished(plans, encoded, encoded_tokens)

    async def aencode_chunks(
        self, items: Sequence[Item], scheme: ChunkScheme | None = None, token_vectors: bool = False
    ) -> list[ChunkVectors]:
        """`encode_chunks` without blocking the event loop."""
        await self._aready()
        plans = await asyncio.to_thread(self._plans, items, scheme, token_vectors)
        requests = [each.request() for each in plans]
        plain, tokens = _texts(requests)
        with listening(_listener(plain, tokens)):
            encoded = await self._aencode(plain, "document")
        with listening(_listener(tokens, plain)):
            encoded_tokens = await self._aencode(tokens, "document", tokens=True)
        if self._lacks_centre(plans):
            await asyncio.to_thread(self._find_centre)
        return await asyncio.to_thread(self._finished, plans, encoded, encoded_tokens)

    def embed_query_tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """Per query, float32 ``[tokens, dimension]``, rows L2-normalised, for late interaction (MaxSim).

        Special tokens and the instruction are read but have no vectors of their own; an empty text has none at all.
        """
        if self._querier is not None:
            self._check_tokens()
            return self._querier.embed_query_tokens(texts)
        return self._matrices(self._encode(self._spanned(texts, "query"), "query", tokens=True), texts)

    def embed_queries_with_tokens(
        self, texts: Sequence[str], questions: Sequence[str]
    ) -> tuple[Vectors, list[Vectors]]:
        """`embed_queries` of ``texts`` and `embed_query_tokens` of ``questions``; a text in both is read once."""
        if self._querier is not None:
            self._check_tokens()
            return self._querier.embed_queries_with_tokens(texts, questions)
        inputs = self._written(texts, "query")
        done = self._encode([*inputs, *self._spanned(questions, "query")], "query", tokens=True)
        return self._queries(done[: len(inputs)]), self._matrices(done[len(inputs) :], questions)

    def embed_queries_with_heads(
        self, texts: Sequence[str], questions: Sequence[str]
    ) -> tuple[Vectors, list[Vectors], list[SparseVector]]:
        """`embed_queries_with_tokens`, and the weights of the questions' words, by ``token_heads``."""
        inputs = self._written(texts, "query")
        done = self._encode([*inputs, *self._spanned(questions, "query")], "query", tokens=True)
        asked = done[len(inputs) :]
        return self._queries(done[: len(inputs)]), self._matrices(asked, questions), self._terms(asked, questions)

    def embed_terms(self, texts: Sequence[str], role: Role = "document") -> list[SparseVector]:
        """Per text the weights of its words by the model's own head, which ``token_heads`` gives it.

        Raises:
            ConventionError: The embedder has no ``token_heads``.
        """
        if not self.token_heads:
            raise ConventionError(f"{self!r} has no head for the weights of words: pass token_heads=True")
        return self._terms(self._encode(self._spanned(texts, role), role, tokens=True), texts)

    async def aembed_query_tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """`embed_query_tokens` without blocking the event loop."""
        if self._querier is not None:
            self._check_tokens()
            return await self._querier.aembed_query_tokens(texts)
        await self._aready()
        return self._matrices(await self._aencode(self._spanned(texts, "query"), "query", tokens=True), texts)

    def embed_document_tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """`embed_query_tokens` for texts written as documents."""
        return self._matrices(self._encode(self._spanned(texts, "document"), "document", tokens=True), texts)

    async def aembed_document_tokens(self, texts: Sequence[str]) -> list[Vectors]:
        """`embed_document_tokens` without blocking the event loop."""
        await self._aready()
        return self._matrices(await self._aencode(self._spanned(texts, "document"), "document", tokens=True), texts)

    def embed_span_tokens(self, texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[list[Vectors]]:
        """The token vectors of spans of documents: each text is read once, and its spans are taken out of it.

        Args:
            texts: Texts, written as documents.
            spans: Per text, ``[start, end)`` character offsets into it; a text without any is not read.

        Returns:
            Per text and span, float32 ``[tokens, dimension]``, rows L2-normalised: the tokens that share a character
            with the span.

        Raises:
            SpanError: A span is empty, reversed or outside its text.
            ConventionError: The model has no token vectors.
            NonFiniteVectorError: The model computed NaN or infinity.
        """
        return self._of_spans(self._encode(self._with_spans(texts, spans), "document", tokens=True), spans)

    async def aembed_span_tokens(self, texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[list[Vectors]]:
        """`embed_span_tokens` without blocking the event loop."""
        await self._aready()
        inputs = await asyncio.to_thread(self._with_spans, texts, spans)
        return self._of_spans(await self._aencode(inputs, "document", tokens=True), spans)

    async def _aready(self) -> None:
        """Look the model up in a thread: it reads files, once."""
        if self._encoder is None:
            await asyncio.to_thread(lambda: self.encoder)

    def _written(self, texts: Sequence[str], role: Role) -> list[SpanText]:
        write = self.family.query_text if role == "query" else self.family.document_text
        return [write(text) for text in checked_texts(texts)]

    def _spanned(self, texts: Sequence[str], role: Role) -> list[SpanText]:
        """One span per text, around its own words; texts without words are left out.

        The model's own heads were trained on whole texts.
        """
        if self.token_heads:
            both = zip(self._written(texts, role), texts, strict=True)
            return [written for written, text in both if text.strip()]
        inputs = []
        for written, text in zip(self._written(texts, role), texts, strict=True):
            if text.strip():
                end = written.prefix + len(text)
                inputs.append(dataclasses.replace(written, spans=((written.prefix, end),), also=()))
        return inputs

    def _with_spans(self, texts: Sequence[str], spans: Sequence[Sequence[Span]]) -> list[SpanText]:
        """The texts that have spans, written as documents; a span outside of its text does not reach what is around."""
        inputs: list[SpanText] = []
        for written, text, own in zip(self._written(texts, "document"), texts, spans, strict=True):
            for start, end in own:
                if not 0 <= start < end <= len(text):
                    raise SpanError(
                        f"the span ({start}, {end}) is empty or outside of its text, which has {len(text)} characters"
                    )
            if own:
                moved = tuple((written.prefix + start, written.prefix + end) for start, end in own)
                inputs.append(dataclasses.replace(written, spans=moved, also=()))
        return inputs

    def _of_spans(self, encoded: Sequence[Encoded], spans: Sequence[Sequence[Span]]) -> list[list[Vectors]]:
        done = iter(encoded)
        matrices = [list(next(done).tokens or ()) if own else [] for own in spans]
        for matrix in (matrix for each in matrices for matrix in each):
            check_finite(matrix, f"model {self.model!r} computed")
        return matrices

    def _plans(self, items: Sequence[Item], scheme: ChunkScheme | None, token_vectors: bool) -> list[Plan]:
        chosen = self.scheme if scheme is None else scheme
        check_scheme(chosen, self.family)
        if chosen.context and not pools_spans(self.encoder):
            chosen = dataclasses.replace(chosen, pool_context=True)
        trained = self.trained_tokens if chosen.late else None
        if chosen.late and trained is not None and (chosen.window or 0) > trained and not self._warned_of_window:
            self._warned_of_window = True
            warnings.warn(
                f"late chunking reads windows of {chosen.window} tokens, but {self.model!r} was trained on "
                f"{trained}: its vectors get worse beyond (measured for all-MiniLM-L6-v2); window=None stays within",
                SituateWarning,
                stacklevel=3,
            )
        return [
            plan(
                document,
                chunks,
                chosen,
                self.family,
                trained_tokens=trained,
                token_vectors=token_vectors,
                whole=self.token_heads,
            )
            for document, chunks in items
        ]

    def _lacks_centre(self, plans: Sequence[Plan]) -> bool:
        return self._centre is None and any(map(mixes, plans))

    def _find_centre(self) -> None:
        """The mean of the sample's vectors. Its texts are neither refused nor warned of where a model reads less."""
        reader = self
        if self._settings.on_overflow in ("raise", "warn") and self._settings.encoder is None:
            reader = self.from_settings(dataclasses.replace(self._settings, on_overflow="window"))
        with listening(None):
            self._centre = centre_of(reader.embed_documents(SAMPLE))

    def _finished(
        self, plans: Sequence[Plan], plain: Sequence[Encoded], tokens: Sequence[Encoded]
    ) -> list[ChunkVectors]:
        results: list[ChunkVectors] = []
        first = first_token = 0
        for each in plans:
            request = each.request()
            last, last_token = first + len(request.plain), first_token + len(request.tokens)
            results.append(
                finish(each, plain[first:last], tokens[first_token:last_token], self.dimension, self._centre)
            )
            first, first_token = last, last_token
        return results

    def _encode(self, inputs: Sequence[SpanText], role: Role, tokens: bool = False) -> list[Encoded]:
        if not inputs:
            return []
        if tokens in self._unchecked:
            self._check_space(tokens)
        return self._run(inputs, role, tokens)

    def _run(self, inputs: Sequence[SpanText], role: Role, tokens: bool) -> list[Encoded]:
        done = self.encoder.encode(inputs, token_vectors=tokens, **self._role_options[role])
        return [self._cut(item) for item in done]

    def _check_space(self, tokens: bool) -> None:
        """Whether the queries of ``query_model`` find documents, before the first are embedded."""
        try:
            self._compare_spaces(tokens)
        except OverflowLimitError:
            warnings.warn(
                f"whether query_model {self.querier.model!r} and {self.model!r} make vectors of one space is not "
                f"checked: max_tokens is {self.querier.max_tokens} and {self.max_tokens}, less than the check's texts "
                "have, and on_overflow is 'raise'. A greater max_tokens, or on_overflow='warn', checks it",
                SituateWarning,
                stacklevel=4,
            )
        self._unchecked.discard(tokens)

    def _compare_spaces(self, tokens: bool) -> None:
        questions, passages = list(QUESTIONS), list(QUESTIONS.values())
        if tokens:
            read = self._run(self._spanned(passages, "document"), "document", True)
            check_space(self, self.querier, self._matrices(read, passages), self.querier.embed_query_tokens(questions))
        else:
            rows = self._rows(self._run(self._written(passages, "document"), "document", False))
            asked = self.querier.embed_queries(questions)
            check_space(self, self.querier, list(rows[:, None]), list(asked[:, None]))

    async def _aencode(self, inputs: Sequence[SpanText], role: Role, tokens: bool = False) -> list[Encoded]:
        if not inputs:
            return []
        if tokens in self._unchecked:
            await asyncio.to_thread(self._check_space, tokens)
        done = await self.encoder.aencode(inputs, token_vectors=tokens, **self._role_options[role])
        return [self._cut(item) for item in done]

    def _cut(self, encoded: Encoded) -> Encoded:
        if self._settings.dimensions is None:
            return encoded
        tokens = None if encoded.tokens is None else tuple(self._shortened(matrix, True) for matrix in encoded.tokens)
        vectors = self._shortened(encoded.vectors, self.family.normalize)
        return Encoded(vectors, tokens, encoded.lost_tokens)

    def _shortened(self, vectors: Vectors, normalize: bool) -> Vectors:
        if self.family.layer_norm and vectors.size:
            # Layer norm without weights; the norm that follows cancels its division.
            vectors = vectors - vectors.mean(axis=-1, keepdims=True)
        vectors = vectors[:, : self._settings.dimensions]
        return unit(vectors) if normalize else np.ascontiguousarray(vectors)

    def _rows(self, encoded: Sequence[Encoded]) -> Vectors:
        if not encoded:
            return np.zeros((0, self.dimension), dtype=np.float32)
        vectors = np.concatenate([item.vectors for item in encoded])
        check_finite(vectors, f"model {self.model!r} computed")
        return vectors

    def _queries(self, encoded: Sequence[Encoded]) -> Vectors:
        rows = self._rows(encoded)
        return rows if self._profile.query_map is None else self._profile.query_map(rows)

    def _matrices(self, encoded: Sequence[Encoded], texts: Sequence[str]) -> list[Vectors]:
        done = iter(encoded)
        empty = np.zeros((0, self.dimension), dtype=np.float32)
        matrices = [(next(done).tokens or (empty,))[0] if text.strip() else empty for text in texts]
        for matrix in matrices:
            check_finite(matrix, f"model {self.model!r} computed")
        return matrices

    def _terms(self, encoded: Sequence[Encoded], texts: Sequence[str]) -> list[SparseVector]:
        done = iter(encoded)
        return [(next(done).terms or (_none(),))[0] if text.strip() else _none() for text in texts]


def _none() -> SparseVector:
    return SparseVector(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32))


def _texts(requests: Sequence[Request]) -> tuple[list[SpanText], list[SpanText]]:
    """The texts for vectors, and those for token vectors."""
    plain = [text for request in requests for text in request.plain]
    return plain, [text for request in requests for text in request.tokens]


def _listener(texts: Sequence[SpanText], others: Sequence[SpanText]) -> Told | None:
    """What is told of the progress of texts that are read before or after others."""
    part, rest = (sum(len(item.text) for item in some) for some in (texts, others))
    return listener(part, part + rest)


def _role_options(settings: EmbedderSettings, encoder: SpanEncoder) -> dict[Role, dict[str, Any]]:
    """Keyword arguments for the encoder: `Encoder` runs queries before documents, others take no role."""
    if "role" not in signature(encoder.encode).parameters:
        return {"query": {}, "document": {}}
    adapters = {role: settings.adapter_for(role) for role in get_args(Role)}
    return {role: {"role": role, **({"adapter": name} if name else {})} for role, name in adapters.items()}
