"""The retrieval pipeline as one value, with named presets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, TypeAlias

from situate.embedders.types import ChunkScheme
from situate.errors import InputError
from situate.parameters import checked_parameters
from situate.retrievers.index.compression import BINARY, Compression
from situate.retrievers.index.languages import ENGLISH, LANGUAGES, NONE
from situate.retrievers.index.payload import BM25, DENSE, DOCUMENT, DOCUMENT_BM25
from situate.retrievers.search.boosts import Boost
from situate.retrievers.search.geometry import Hubness, Whitening, hubness_of, whitening_of
from situate.retrievers.signals.base import Signal, signal_from_json

Fusion: TypeAlias = Literal["minmax", "dbsf", "rrf"]
TokenStorage: TypeAlias = Literal["float32", "float16"]
#: Weights that a person writes as shares (.7, .2, .1) may come to a little more than 1.
_ROUNDING = 1e-9


@checked_parameters
@dataclass(frozen=True)
class LexicalScheme:
    """How a chunk becomes a BM25 vector (Robertson and Zaragoza 2009; Qdrant Edge's own implementation).

    Attributes:
        context: `Context` fields written in front of the chunk's text.
        neighbours: This share of the previous and the next chunk's vector is added, in texts that are read without
            n-grams. A BM25 score is a dot product of sparse vectors, so this equals mixing the scores, exactly, at no
            cost per query.
        k: Saturation of term frequency.
        b: Length normalisation, 0 to 1.
        average_length: The number of terms that counts as an average text; 200 tokens of English have about 128.
        language: "auto": each document is read in its own language, a query in those of the collection's documents. Or
            the English name of the language of all, or the names of several. Stop words and a stemmer where they find
            more than n-grams, n-grams beside each word (`docs/languages.md`); "none" for neither.
        split_identifiers: Also index the words inside camelCase and snake_case identifiers.
        terms: How text becomes terms: 3 normalises it (`situate.retrievers.index.terms`) and reads languages apart; 2
            normalises it and leaves the language to Qdrant ("english" by default); 1 leaves all to Qdrant. An index
            takes 1 or 2 by itself for a collection of an earlier version.

    Raises:
        InputError: ``terms`` is none of these, or with 3 a language is unknown.
    """

    context: tuple[str, ...] = ("title", "headings", "sentence", "questions")
    neighbours: float = 0.1
    k: float = 1.2
    b: float = 0.75
    average_length: float = 128.0
    language: str | tuple[str, ...] = "auto"
    split_identifiers: bool = True
    terms: int = 3

    def __post_init__(self) -> None:
        if self.terms not in (1, 2, 3):
            raise InputError(f"terms={self.terms}: 3, or 1 or 2 for collections of earlier versions")
        if self.terms < 3 and self.language == "auto":
            object.__setattr__(self, "language", ENGLISH)  # what earlier versions took
        if self.terms == 3 and self.language not in ("auto", NONE):
            names = (self.language,) if isinstance(self.language, str) else self.language
            unknown = [name for name in names if name not in LANGUAGES]
            if unknown or not names:
                raise InputError(
                    f"language={self.language!r}: {unknown} are not among the names of languages: 'auto', 'none', or "
                    f"of {', '.join(LANGUAGES)}"
                )

    def stored(self) -> dict[str, Any]:
        """What decides the terms of stored vectors, as JSON values."""
        language = self.language if isinstance(self.language, str) else list(self.language)
        stored = asdict(self) | {"context": list(self.context), "language": language}
        # Collections of versions with one kind of terms name none.
        return {name: value for name, value in stored.items() if name != "terms" or value != 1}


@checked_parameters
@dataclass(frozen=True)
class Feedback:
    """Pseudo-relevance feedback on the dense vector (Rocchio 1971), from the fused ranking.

    Attributes:
        top: How many of the best hits are assumed to be relevant.
        beta: Weight of their mean vector against the query's.
    """

    top: int = 3
    beta: float = 0.3


@checked_parameters
@dataclass(frozen=True)
class DocumentSignals:
    """A document's own scores, blended into those of its chunks (DAPR, Wang et al. 2024).

    A chunk with few words of its own rises with a document that is about the query. The documents of the candidates
    are scored, which takes one further request; one vector of each kind is stored per document.

    Attributes:
        dense: Share of the document's vector, the mean of its chunks', in the fused score.
        lexical: Share of the document's BM25 score.
        average_length: The number of terms that counts as an average document.
    """

    dense: float = 0.1
    lexical: float = 0.1
    average_length: float = 1000.0


@checked_parameters
@dataclass(frozen=True)
class PipelineConfig:
    """What is stored for a chunk, and how a query uses it.

    Attributes:
        dense: How chunks become dense vectors.
        lexical: How they become BM25 vectors; None for dense search alone.
        fusion: "minmax" (the mean of both scores, each brought to [0, 1] over its candidates), "dbsf"
            (distribution-based score fusion; the mean, too) or "rrf" (reciprocal rank fusion, Cormack et al. 2009). The
            last two are done by Qdrant within one query.
        rrf_k: The constant of RRF; 60 in the paper.
        prefetch: Candidates taken from each of dense and BM25.
        feedback: Pseudo-relevance feedback, or None.
        document: Document-level scores, or None. Needs "minmax".
        questions: How far a chunk's similarity is raised towards that of the nearest of the questions that it answers
            (``context.questions``), where that is nearer: 1 takes the question's in its place. Stored as one
            multivector per chunk; 0 for not storing them. Needs "minmax".
        token_vectors: Also store one vector per token, in this datatype, for the MaxSim stage (Khattab and Zaharia
            2020); None for not storing them.
        maxsim_depth: Candidates that the MaxSim stage scores.
        maxsim_weight: Its share in the final score, with "minmax"; Qdrant's own fusion takes one half.
        keys: Metadata keys that filters use; each gets a payload index.
        boosts: Scores out of the metadata (`Recency`, `PayloadScore`), added to the final score of every candidate.
        signals: Further signals (`situate.retrievers.signals`): values, kinds, or JSON
            (``{"kind": "sparse", "model": ..., "weight": 0.3}``). Those that find candidates have their weight of the
            fused score, dense and BM25 share the rest. Need "minmax".
        compression: Search dense vectors by small codes in RAM, and keep the vectors themselves on disk: "int8",
            "signs" or "product", which may change at any time, or "binary" or "pca:128" (`Compression`), of the chunks'
            own vectors; None as the collection has them. "binary" for a collection that was made without it is "signs".
        rescore: Whether the best candidates by codes are scored again with the vectors on disk.
        oversampling: So many times the candidates that are wanted are found by codes; None for a number that fits the
            compression.
        lexical_share: BM25's share of what dense and BM25 have together, with "minmax": between 0 and 1.
        hubness: Subtract from dense similarities what makes a chunk near to every query (`Hubness`, or its fields as
            JSON); None for not. Nothing that is stored changes. Needs "minmax".
        whitening: Compare dense vectors whitened, by what is fitted on the collection (`Whitening`, or its fields as
            JSON); None for not. Nothing that is stored changes. Needs "minmax".

    Raises:
        InputError: ``prefetch``, ``maxsim_depth`` or ``rrf_k`` is less than 1; ``fusion`` is not one of the three;
            ``token_vectors`` is none of its datatypes;
            ``maxsim_weight`` or ``questions`` is not in [0, 1]; ``lexical_share`` is not between 0 and 1, or is set
            without "minmax" or ``lexical``; ``hubness`` or
            ``whitening`` is refused, or set without "minmax"; the shares of ``document`` are negative or come to 1 or
            more; either of these is set without "minmax", or ``document.lexical`` without ``lexical``; or
            ``document.average_length`` is not above 0. Or ``compression`` is none of its kinds, ``oversampling`` is
            less than 1, or one of its two settings is given without it. Or a signal cannot be read, two have one name,
            or their weights come to more than 1.
    """

    dense: ChunkScheme = field(default_factory=ChunkScheme)
    lexical: LexicalScheme | None = field(default_factory=LexicalScheme)
    fusion: Fusion = "minmax"
    rrf_k: int = 60
    prefetch: int = 100
    feedback: Feedback | None = None
    document: DocumentSignals | None = None
    questions: float = 0.0
    token_vectors: TokenStorage | None = None
    maxsim_depth: int = 50
    maxsim_weight: float = 0.3
    keys: tuple[str, ...] = ()
    boosts: tuple[Boost, ...] = ()
    signals: tuple[Signal, ...] = ()
    compression: str | None = None
    rescore: bool = True
    oversampling: float | None = None
    lexical_share: float = 0.5
    hubness: Hubness | None = None
    whitening: Whitening | None = None

    def __post_init__(self) -> None:
        if isinstance(self.signals, str | Mapping) or not isinstance(self.signals, Iterable):
            raise InputError(f"signals={self.signals!r} is no list of signals: write [{self.signals!r}] for one")
        object.__setattr__(self, "signals", tuple(map(signal_from_json, self.signals)))
        if self.prefetch < 1 or self.maxsim_depth < 1 or self.rrf_k < 1:
            raise InputError(
                f"prefetch={self.prefetch}, maxsim_depth={self.maxsim_depth} and rrf_k={self.rrf_k} must be at least 1"
            )
        if self.token_vectors not in (None, "float32", "float16"):
            raise InputError(
                f"token_vectors={self.token_vectors!r}: Qdrant's uint8 cuts the numbers of unit vectors to 0, so every "
                'score would be 0; take "float16", or "float32"'
            )
        if self.fusion not in ("minmax", "dbsf", "rrf"):
            raise InputError(f"fusion={self.fusion!r} is not one of 'minmax', 'dbsf', 'rrf'")
        for name, share in (("maxsim_weight", self.maxsim_weight), ("questions", self.questions)):
            if not 0 <= share <= 1:
                raise InputError(f"{name}={share} is a share: it must lie between 0 and 1")
        if not 0 < self.lexical_share < 1:
            raise InputError(
                f"lexical_share={self.lexical_share} is a share between 0 and 1: lexical=None leaves BM25 out, and "
                "dense vectors are always searched"
            )
        if self.lexical_share != 0.5 and self.lexical is None:
            raise InputError(f"lexical_share={self.lexical_share} is BM25's, and lexical=None leaves BM25 out")
        if self.lexical_share != 0.5 and self.fusion != "minmax":
            raise InputError(f"fusion={self.fusion!r} has no shares: lexical_share needs fusion='minmax'")
        object.__setattr__(self, "hubness", hubness_of(self.hubness))
        object.__setattr__(self, "whitening", whitening_of(self.whitening))
        if self.reshaped and self.fusion != "minmax":
            raise InputError(
                f"fusion={self.fusion!r} fuses cosines inside of Qdrant: hubness and whitening need fusion='minmax'"
            )
        _ = self.compressed
        self._check_document()
        self._check_signals()

    def _check_signals(self) -> None:
        names = [signal.name for signal in self.table]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(f"two signals have the name {twice[0]!r}: give one of them another name=")
        if any(signal.weight for signal in self.signals) and self.fusion != "minmax":
            raise InputError(f"fusion={self.fusion!r} has no shares: signals need fusion='minmax'")
        shares = {signal.name: signal.weight for signal in self.signals if signal.stage == "find"}
        if sum(shares.values()) > 1 + _ROUNDING:
            raise InputError(f"the weights {shares} are shares of the fused score: together at most 1")
        documents = {signal.name: signal.weight for signal in self.table if signal.stage == "document"}
        if sum(documents.values()) > 1 + _ROUNDING:
            raise InputError(f"the weights {documents} of documents are shares of the fused score: together at most 1")
        raising = [signal.name for signal in self.table if signal.stage == "raise" and signal.weight]
        if raising and not self._rest:
            raise InputError(f"the weights {shares} leave the dense vectors no share, which {raising[0]!r} could raise")

    def _check_document(self) -> None:
        document = self.document
        shares = [] if document is None else [document.dense, document.lexical]
        if not (all(share >= 0 for share in shares) and sum(shares) < 1):
            raise InputError(
                f"the document's shares are {shares}: each must be 0 or more, and together less than 1, because the "
                "chunk's own scores have the rest"
            )
        if (self.questions or any(shares)) and self.fusion != "minmax":
            raise InputError(f"fusion={self.fusion!r} has no shares: document and questions need fusion='minmax'")
        if document is not None and document.lexical and self.lexical is None:
            raise InputError(
                f"document.lexical={document.lexical} needs lexical=LexicalScheme(...), by which texts become terms: "
                "set it, or DocumentSignals(lexical=0)"
            )
        if document is not None and not document.average_length > 0:
            raise InputError(f"document.average_length={document.average_length} is a number of terms: more than 0")

    @classmethod
    def plain(cls) -> PipelineConfig:
        """Each chunk embedded alone, dense search only: the baseline without situate."""
        return cls(dense=ChunkScheme(), lexical=None)

    @classmethod
    def hybrid(cls) -> PipelineConfig:
        """Chunks alone, dense + BM25, RRF: the usual hybrid search."""
        return cls(dense=ChunkScheme(), lexical=LexicalScheme(context=(), neighbours=0.0), fusion="rrf")

    @classmethod
    def fast(cls) -> PipelineConfig:
        """No further pass of the model and no token vectors: headings in front, neighbour mixing, situated BM25."""
        return cls(dense=ChunkScheme(neighbours=0.35, context=("headings",)))

    @classmethod
    def quality(cls) -> PipelineConfig:
        """Late chunking mixed with the chunk alone, and `fast`, and feedback, and MaxSim over late token vectors."""
        return cls(
            dense=ChunkScheme(late=True, residual=0.5, neighbours=0.35, context=("headings",)),
            feedback=Feedback(),
            token_vectors="float16",
        )

    @property
    def _rest(self) -> float:
        """The share of the fused score that further signals leave to dense and BM25."""
        rest = 1 - sum(signal.weight for signal in self.signals if signal.stage == "find")
        return rest if rest > _ROUNDING else 0.0

    @cached_property
    def table(self) -> tuple[Signal, ...]:
        """Every signal that the collection stores: those of the fields, and the further ones."""
        from situate.retrievers.index.lexical import LexicalEncoder
        from situate.retrievers.signals.chunk import ChunkTerms, ChunkVector
        from situate.retrievers.signals.document import DocumentTerms, DocumentVector
        from situate.retrievers.signals.questions import Questions
        from situate.retrievers.signals.tokens import Tokens

        document, lexical = self.document, self.lexical
        share = self.lexical_share if lexical is not None else 0.0
        signals: list[Signal] = [ChunkVector(self.dense, name=DENSE, weight=self._rest * (1 - share))]
        if lexical is not None:
            signals.append(ChunkTerms(LexicalEncoder(lexical), name=BM25, weight=self._rest * share))
        if document is not None and document.dense:
            signals.append(DocumentVector(name=DOCUMENT, weight=document.dense))
        if document is not None and document.lexical and lexical is not None:
            whole = LexicalEncoder(replace(lexical, average_length=document.average_length, neighbours=0.0))
            signals.append(DocumentTerms(whole, name=DOCUMENT_BM25, weight=document.lexical))
        if self.questions:
            signals.append(Questions(weight=self.questions))
        if self.token_vectors is not None:
            tokens = Tokens(datatype=self.token_vectors, depth=self.maxsim_depth, weight=self.maxsim_weight)
            signals.append(tokens)
        return (*signals, *self.signals)

    @cached_property
    def searched(self) -> tuple[Signal, ...]:
        """Those of them that a search compares: all with a weight, and the field's token vectors without one, too."""
        return tuple(s for s in self.table if s.weight or (s.stage == "rescore" and s not in self.signals))

    @cached_property
    def compressed(self) -> Compression | None:
        """How dense vectors are compressed and searched; None for not, or as the collection has them."""
        if self.compression is not None:
            return Compression(self.compression, self.rescore, self.oversampling)
        if self.oversampling is not None or not self.rescore:
            raise InputError(
                f"rescore={self.rescore} and oversampling={self.oversampling} are settings of compressed vectors: set "
                "compression, too"
            )
        return None

    @property
    def reshaped(self) -> bool:
        """Whether dense similarities are those of the collection's geometry, and not plain cosines."""
        return self.hubness is not None or self.whitening is not None

    @property
    def needs_tokens(self) -> bool:
        """Whether a signal needs the token vectors of the index's embedder."""
        return any(signal.needs_tokens for signal in self.table)

    def weighted(self, weights: Mapping[str, float]) -> PipelineConfig:
        """The configuration with other weights of further signals, for a search: what is stored stays.

        Raises:
            InputError: There is no further signal of a name, or a weight is refused.
        """
        if not isinstance(weights, Mapping):
            raise InputError(f"weights is {weights!r:.80}: it maps names of signals to numbers")
        names = [signal.name for signal in self.signals]
        if unknown := sorted(weights.keys() - set(names)):
            raise InputError(f"there is no signal named {unknown[0]!r} to weigh: there are {names}")
        return replace(
            self, signals=tuple(replace(s, weight=weights[s.name]) if s.name in weights else s for s in self.signals)
        )

    def without(self, names: Collection[str]) -> PipelineConfig:
        """The configuration without further signals of these names."""
        kept = tuple(signal for signal in self.signals if signal.name not in names)
        return self if len(kept) == len(self.signals) else replace(self, signals=kept)

    def dense_alone(self) -> PipelineConfig:
        """The configuration of a search by dense vectors alone, whose scores are the cosines.

        It names what it keeps, so that a setting of other signals never has to be taken out here.
        """
        return PipelineConfig(
            dense=self.dense,
            lexical=None,
            # "minmax" would stretch the scores over [0, 1]; "rrf" leaves a single list as Qdrant scored it.
            fusion="rrf",
            prefetch=self.prefetch,
            keys=self.keys,
            boosts=self.boosts,
            compression=self.compression,
            rescore=self.rescore,
            oversampling=self.oversampling,
        )

    def agreeing_with(self, stored: Mapping[str, Any]) -> PipelineConfig:
        """This configuration, or one that stores what that collection's did, where a later version stores another form.

        Args:
            stored: As `stored` returned it for the collection.
        """
        changed: dict[str, Any] = {}
        terms = (stored.get("lexical") or {}).get("terms", 1)
        if self.lexical is not None and stored.get("lexical") and terms < self.lexical.terms:
            changed["lexical"] = replace(self.lexical, terms=terms)
        if (dense := self.dense.agreeing_with(stored.get("dense") or {})) != self.dense:
            changed["dense"] = dense
        kept = stored.get("signals") or {}
        signals = tuple(s.agreeing_with(kept[s.name]) if s.name in kept else s for s in self.signals)
        if signals != self.signals:
            changed["signals"] = signals
        if self.compression == BINARY and "compression" not in stored:
            changed["compression"] = "signs"
        return replace(self, **changed) if changed else self

    def stored(self) -> Mapping[str, Any]:
        """What decides the content of stored vectors, as JSON values: a change needs a new index."""
        chunk = {signal.name: signal.stored() for signal in self.table if signal.kind == "chunk"}
        stored: dict[str, Any] = {
            "dense": chunk[DENSE],
            "lexical": chunk.get(BM25),
            "token_vectors": self.token_vectors,
        }
        # Named only where they are set: an index that was built before they existed keeps its fingerprint.
        if self.document is not None and (self.document.dense or self.document.lexical):
            stored["document"] = {
                "dense": self.document.dense > 0,
                "average_length": self.document.average_length if self.document.lexical else None,
            }
        if self.questions:
            stored["questions"] = True
        if self.signals:
            stored["signals"] = {signal.name: {"kind": signal.kind, **signal.stored()} for signal in self.signals}
        if self.compressed is not None and self.compressed.has_codes:
            stored["compression"] = self.compression
        return stored
