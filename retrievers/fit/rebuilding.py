"""Settings that need the documents to be indexed again: chunk sizes, contexts, neighbours, late chunking."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from situate.chunkers.base import SizedChunker
from situate.embedders.embedder import Embedder
from situate.embedders.schemes import check_scheme
from situate.embedders.types import Encoded, Role, SpanText
from situate.errors import ConventionError
from situate.retrievers.config import PipelineConfig
from situate.retrievers.fit.corpus import Probe, stored_documents
from situate.retrievers.fit.settings import score
from situate.retrievers.fit.trials import Trials
from situate.retrievers.index.index import Index
from situate.types import Chunk, Chunker, Document

#: What is tried of each; chunks of half and of twice the size, too.
_NEIGHBOURS, _RESIDUAL = (0.0, 0.35, 0.5), 0.5
_CONTEXTS: tuple[tuple[str, ...], ...] = ((), ("headings",), ("title", "headings"))
_LEXICAL_NEIGHBOURS = (0.0, 0.1, 0.3)
#: About so many times the chunks are embedded for all of it; of a document at least so many chunks are taken.
_TIMES, _LEAST = 6, 50
#: The first round has one chunk in so many, and so many remain for the second.
_PART, _KEPT = 3, 3
#: Of context that a language model or a table's reader wrote, which is lost where a document is cut again.
_WRITTEN = ("sentence", "questions", "answers", "propositions", "rows", "columns", "speaker")


@dataclass(frozen=True)
class Build:
    """How an index is built.

    Attributes:
        config: What it stores, and how it is searched.
        chunker: What cuts its documents; None where chunks stay as they are.
        changed: Which settings differ from those of before.
    """

    config: PipelineConfig
    chunker: Chunker | None = None
    changed: tuple[str, ...] = ()

    def on(self, config: PipelineConfig) -> Build:
        """The same changes of a configuration with further signals and MaxSim."""
        return replace(self, config=replace(config, dense=self.config.dense, lexical=self.config.lexical))


def builds(config: PipelineConfig, chunker: Chunker | None, embedder: Embedder) -> list[Build]:
    """Builds that differ from ``config`` in one setting each; those that the model is not suited to are left out.

    Args:
        config: The settings so far.
        chunker: What cuts documents; None where they cannot be cut again.
        embedder: Its model decides which schemes are possible.
    """
    dense, lexical = config.dense, config.lexical
    found: list[Build] = []
    sized: Any = chunker
    if isinstance(sized, SizedChunker):
        for size in (sized.size // 2, sized.size * 2):
            if size:
                other: Any = replace(sized, size=size, overlap=sized.overlap * size // sized.size)
                found.append(Build(config, other, ("size",)))
    schemes = [("context", replace(dense, context=fields)) for fields in _CONTEXTS if fields != dense.context]
    late = replace(dense, late=not dense.late, residual=0.0 if dense.late else _RESIDUAL, situated=0)
    schemes += [("late", late)]
    schemes += [("neighbours", replace(dense, neighbours=n)) for n in _NEIGHBOURS if n != dense.neighbours]
    for name, scheme in schemes:
        try:
            check_scheme(scheme, embedder.family)
        except ConventionError:  # its tokens do not stand for the text around them
            continue
        found.append(Build(replace(config, dense=scheme), None, (name,)))
    if lexical is not None:
        for share in _LEXICAL_NEIGHBOURS:
            if share != lexical.neighbours:
                changed = replace(config, lexical=replace(lexical, neighbours=share))
                found.append(Build(changed, None, ("lexical neighbours",)))
    return found


class Rebuilder:
    """Builds of a sample of an index, and what they find; each text is embedded once, however many builds hold it.

    Args:
        probe: The index and its questions.
        chunks: Chunks that are embedded for all builds together, about.
        seed: Of the drawing.

    Attributes:
        tried: How many builds were tried.
    """

    def __init__(self, probe: Probe, chunks: int, seed: int) -> None:
        self.probe = probe
        self.embedder = _Remembering.from_settings(probe.index.embedder.settings)
        self.tried = 0
        self._stored = dict(_sample(probe, max(1, chunks // _TIMES), seed))

    @property
    def embedded(self) -> int:
        """How many texts were embedded."""
        return len(self.embedder.known)

    def best(self, config: PipelineConfig, choosing: tuple[Sequence[int], Sequence[int]]) -> Build | None:
        """The best build by successive halving, first on a part of the sample; None where none finds more.

        The best of several settings are also tried together. MaxSim and further signals, whose models would read each
        build, are left out of both sides.

        Args:
            config: The settings to beat.
            choosing: The numbers of the questions that judge and of those that guard.
        """
        config = _compared(config)
        base, whole = Build(config), sum(len(chunks) for _, chunks in self._stored.values())
        left = builds(config, self._chunker(), self.probe.index.embedder)
        self.tried += len(left)
        names: list[str] = []
        held = 0
        for name, (_, chunks) in self._stored.items():
            if held >= whole // _PART:
                break
            names.append(name)
            held += len(chunks)
        for some, kept in ((names, _KEPT), (list(self._stored), len(left))):
            before = self.gains(base, some)
            scores = {id(build): _score(self.gains(build, some), before, choosing) for build in left}
            left = sorted(left, key=lambda build: -scores[id(build)])[:kept]
            left = [build for build in left if scores[id(build)] > 0]
            if not left:
                return None
        together = left[0]
        for build in left[1:]:
            if not set(build.changed) & set(together.changed):
                together = _joined(together, build, config)
        if together is not left[0]:
            self.tried += 1
            before = self.gains(base, list(self._stored))
            joint = _score(self.gains(together, list(self._stored)), before, choosing)
            return together if joint > scores[id(left[0])] else left[0]
        return left[0]

    def differences(
        self, build: Build, config: PipelineConfig, several: Sequence[Sequence[int]]
    ) -> list[NDArray[np.float64]]:
        """How much more a build finds than ``config`` as it is, of those of each list of questions that it is asked.

        Returns:
            float64 ``[questions]`` for each list.
        """
        whole = list(self._stored)
        after, before = self.gains(build, whole), self.gains(Build(_compared(config)), whole)
        return [np.array([after[n] - before[n] for n in some if n in after], dtype=np.float64) for some in several]

    def gains(self, build: Build, names: Sequence[str]) -> dict[int, float]:
        """What a build of these documents finds of the questions about them, by their numbers."""
        with self._built(build, names) as (trials, numbers):
            return dict(zip(numbers, trials.gains(build.config).tolist(), strict=True))

    def slower(self, build: Build, config: PipelineConfig) -> float:
        """How many times as long as ``config`` a build takes for a search of the sample."""
        times: list[float] = []
        for each in (Build(_compared(config)), build):
            with self._built(each, list(self._stored)) as (trials, _):
                times += trials.milliseconds([(each.config, trials.vectors)])
        return times[1] / times[0] if times[0] else 1.0

    @contextmanager
    def _built(self, build: Build, names: Sequence[str]) -> Iterator[tuple[Trials, list[int]]]:
        items = [self._stored[name] for name in names]
        if build.chunker is not None:
            items = [(document, build.chunker.split(document)) for document, _ in items]
        lengths = {document.id: len(document.text) for document, _ in items}
        numbers = [
            number
            for number, question in enumerate(self.probe.questions)
            if question.document_id in lengths
            and all(end <= lengths[question.document_id] for _, end in question.spans)
        ]
        with Index(self.embedder, config=build.config) as index:
            index.add_chunks(items)
            probe = Probe.of(index, [self.probe.questions[number] for number in numbers])
            yield Trials(probe, build.config.prefetch), numbers

    def _chunker(self) -> Chunker | None:
        """What cuts the documents again; None where that would lose what was written into their chunks."""
        for _, chunks in self._stored.values():
            if any(getattr(chunk.context, name) for chunk in chunks for name in _WRITTEN):
                return None
        return self.probe.index.chunker


def _compared(config: PipelineConfig) -> PipelineConfig:
    """What of a configuration is compared between builds."""
    return replace(config, token_vectors=None, signals=(), questions=0.0)


def _score(after: dict[int, float], before: dict[int, float], choosing: tuple[Sequence[int], Sequence[int]]) -> float:
    parts = [np.array([after[n] - before[n] for n in some if n in after], dtype=np.float64) for some in choosing]
    return score(parts[0], parts[1])


def _joined(first: Build, second: Build, config: PipelineConfig) -> Build:
    """Both builds' settings."""
    dense = {
        name: getattr(each.config.dense, name)
        for each in (first, second)
        for name in config.dense.__dataclass_fields__
        if getattr(each.config.dense, name) != getattr(config.dense, name)
    }
    lexical = second.config.lexical if second.config.lexical != config.lexical else first.config.lexical
    joint = replace(config, dense=replace(config.dense, **dense), lexical=lexical)
    return Build(joint, first.chunker or second.chunker, (*first.changed, *second.changed))


def _sample(probe: Probe, room: int, seed: int) -> Iterator[tuple[str, tuple[Document, list[Chunk]]]]:
    """Documents that are asked about with their chunks, long ones cut off, until there are ``room`` chunks."""
    names = sorted({question.document_id for question in probe.questions})
    Random(seed).shuffle(names)  # noqa: S311 - a sample, no secret
    each, held = max(_LEAST, room // len(names)), 0
    for document, chunks in stored_documents(probe.index, names):
        if held >= room:
            return
        kept = sorted(chunks, key=lambda chunk: chunk.index)[:each]
        held += len(kept)
        text = document.text[: max(chunk.end for chunk in kept)]
        # The chunker finds the kind of text by the document's own metadata.
        metadata = {**kept[0].metadata, **document.metadata}
        yield document.id, (replace(document, text=text, metadata=metadata), kept)


class _Remembering(Embedder):
    """An embedder that encodes each text once; it shares its model with the others of the same settings."""

    known: dict[tuple[SpanText, Role, bool], Encoded]

    def _set(self, settings: Any) -> None:
        super()._set(settings)
        self.known = {}

    def _run(self, inputs: Sequence[SpanText], role: Role, tokens: bool) -> list[Encoded]:
        missing = [each for each in dict.fromkeys(inputs) if (each, role, tokens) not in self.known]
        if missing:
            made = super()._run(missing, role, tokens)
            self.known |= {(each, role, tokens): one for each, one in zip(missing, made, strict=True)}
        return [self.known[each, role, tokens] for each in inputs]
