"""Model families: how each writes queries and documents, pools and normalises, and what it was trained for.

A wrong instruction or pooling costs more points than most techniques win, and nothing fails when it happens. So a
model's conventions come from three places, later ones overriding earlier ones: the family's record in the registry
(`families.toml`), the sentence-transformers files in the model's own folder, and the user's settings.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from situate.embedders.types import Pooling, Span, SpanText
from situate.parameters import checked_parameters

Similarity = Literal["cosine", "dot"]

CLS_LATE = (
    "its vector is that of the first token: the other tokens were never trained to stand for their text, so pooling "
    "a chunk's tokens gives vectors that its queries do not match"
)
LAST_LATE = (
    "its vector is that of the last token: the other tokens were never trained to stand for their text, so pooling "
    "a chunk's tokens gives vectors that its queries do not match"
)
LIBRARY_LATE = "sentence-transformers runs it whole, and returns one vector per text"
STATIC_LATE = "its token vectors do not depend on the words around them, so a pass over the document adds nothing"


@checked_parameters
@dataclass(frozen=True)
class Family:
    """The conventions of a family of models.

    Attributes:
        name: The family's name.
        source: The model card or paper that these conventions were read from.
        models: Patterns (`fnmatch`, lower case) of the hub ids that belong to it.
        query: What stands before a query; ``{task}`` in it is replaced by the task.
        document: What stands before a document; ``{title}`` in it is replaced by the document's title.
        task: The default task.
        no_title: The text for ``{title}`` where a document has no title.
        query_suffix: What stands after a query.
        document_suffix: What stands after a document.
        apart: Whether prefix and suffix are tokenised by themselves (`SpanText.apart`).
        pooling: How token vectors become one.
        pool_instruction: Whether the instruction's tokens are pooled with the text's.
        normalize: Whether vectors are L2-normalised.
        similarity: How two vectors are compared.
        max_tokens: Tokens that a text is cut to, special tokens included; None: the number in the model's folder.
        trained_tokens: Length it was trained on, which late chunking's windows should not exceed; None: ``max_tokens``.
        dimensions: Lengths that its vectors may be cut to (Matryoshka); () where cutting was not trained.
        cut_anywhere: Whether every length between the smallest and the largest of ``dimensions`` was trained.
        layer_norm: Whether a vector is layer-normalised before it is cut.
        late: Why it is not suited to late chunking and situated windows; "" where it is suited, or where its
            pooling says it (pooling by the first or the last token is not suited).
        end_token: Whether the tokenizer's end token closes every text, which is added where the tokenizer's own files
            leave it out (transformers 5 no longer reads ``add_eos_token``; a "last" pooling would take a word instead).
        leading: The token that takes the place of those that the tokenizer puts before a text; ``{task}`` in it is
            replaced by the task (a language). "": the tokenizer's own.
        position_stride: A number of tokens, and how far apart the positions of texts of up to so many stand.
        remote_code: Whether its repository's own Python files are needed for right vectors.
        library: Why pooling a pass over its tokens does not give its vectors, so that sentence-transformers has to run
            all its modules (`LibraryEncoder`: whole texts only); "" where it does.
        query_options: Arguments of its code for a query besides the text (a task adapter), as names and values.
        document_options: Likewise for a document.
        corpus: Whether it reads a sample of the corpus before anything else (`LibraryEncoder`'s ``corpus``).
        note: A note for users.
        unconfirmed: The part of the record that no readable source confirms, and that may be wrong; "" for none.
        assumed: The conventions that are guesses.
        sources: The sources besides the registry, "the folder" or "you", with the names of their fields.
    """

    name: str
    source: str
    models: tuple[str, ...] = ()
    query: str = ""
    document: str = ""
    task: str = ""
    no_title: str = "none"
    query_suffix: str = ""
    document_suffix: str = ""
    apart: bool = False
    pooling: Pooling = "mean"
    pool_instruction: bool = True
    normalize: bool = True
    similarity: Similarity = "cosine"
    max_tokens: int | None = None
    trained_tokens: int | None = None
    dimensions: tuple[int, ...] = ()
    cut_anywhere: bool = False
    layer_norm: bool = False
    late: str = ""
    end_token: bool = False
    leading: str = ""
    position_stride: tuple[int, int] = (0, 1)
    remote_code: bool = False
    library: str = ""
    query_options: tuple[tuple[str, str], ...] = ()
    document_options: tuple[tuple[str, str], ...] = ()
    corpus: bool = False
    note: str = ""
    unconfirmed: str = ""
    assumed: tuple[str, ...] = ()
    sources: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def query_instruction(self, task: str | None = None) -> str:
        """What stands before a query, for ``task`` or the family's own."""
        return self.query.replace("{task}", task if task is not None else self.task)

    def document_instruction(self, title: str | None = None) -> str:
        """What stands before a document."""
        return self.document.replace("{title}", title or self.no_title)

    def query_text(self, text: str, task: str | None = None) -> SpanText:
        """The text that the model reads for a query.

        A family whose texts are more than prefix + text + suffix overrides this and the methods below.
        """
        return self._written(self.query_instruction(task), text, self.query_suffix)

    def document_text(self, text: str, title: str | None = None) -> SpanText:
        """The text that the model reads for a document or a chunk alone."""
        return self._written(self.document_instruction(title), text, self.document_suffix)

    def _written(self, prefix: str, text: str, suffix: str) -> SpanText:
        return SpanText(f"{prefix}{text}{suffix}", prefix=len(prefix), suffix=len(suffix), apart=self.apart)

    def spans_text(
        self,
        text: str,
        spans: Iterable[Span],
        *,
        lead: str = "",
        title: str | None = None,
        window: int | None = None,
        overlap: int = 64,
    ) -> SpanText:
        """The text that the model reads to pool ``spans`` of ``text`` (late chunking, situated windows).

        The document's suffix closes every window, as it closed the texts of the training.

        Args:
            text: A document, or a stretch of it.
            spans: Character offsets into ``text``.
            lead: What stands between instruction and text and leads every window; never pooled.
            title: The document's title, for instructions that name it.
            window: Tokens read at once; None: what the model reads.
            overlap: Tokens that two windows share.
        """
        prefix = self.document_instruction(title) + lead
        return SpanText(
            prefix + text + self.document_suffix,
            tuple((start + len(prefix), end + len(prefix)) for start, end in spans),
            prefix=len(prefix),
            window=window,
            overlap=overlap,
            suffix=len(self.document_suffix),
            apart=self.apart,
        )

    def situated_text(
        self, chunk: str, before: str, after: str, *, lead: str = "", title: str | None = None, overlap: int = 64
    ) -> SpanText:
        """The text that the model reads for a chunk in its neighbourhood: the chunk is pooled, the rest only read.

        Args:
            chunk: The chunk's own words.
            before: What stands before it in the document.
            after: What follows it.
            lead: Context that leads the text; never pooled.
            title: The document's title, for instructions that name it.
            overlap: Tokens that two windows share, where the text is longer than the model reads.
        """
        span = (len(before), len(before) + len(chunk))
        return self.spans_text(before + chunk + after, [span], lead=lead, title=title, overlap=overlap)

    def trained_to_be_cut(self, dimensions: int) -> bool:
        """Whether its vectors were trained to be cut to so many numbers."""
        between = self.cut_anywhere and min(self.dimensions) <= dimensions <= max(self.dimensions)
        return between or dimensions in self.dimensions

    @property
    def cuts(self) -> str:
        """The lengths that its vectors may be cut to, in words."""
        return self.cuts_of(None)

    def cuts_of(self, full: int | None) -> str:
        """The lengths that vectors of ``full`` numbers may be cut to, in words; None: those of the largest member."""
        longest = max(self.dimensions, default=0)
        longest = longest if full is None else min(full, longest)
        if self.cut_anywhere:
            return f"any from {min(self.dimensions)} to {longest}"
        return ", ".join(str(length) for length in self.dimensions if length <= longest)

    @property
    def situates(self) -> bool:
        """Whether it was trained on its own form of a chunk in its neighbourhood (`situated_text`)."""
        return False

    @property
    def of_one_token(self) -> bool:
        """Whether one token's vector stands for all that is read."""
        return self.pooling in ("cls", "last")


@checked_parameters
@dataclass(frozen=True)
class FewShotFamily(Family):
    """A family that reads examples of the task before the query (BGE-ICL).

    Attributes:
        examples: Queries and their answers.
    """

    examples: tuple[tuple[str, str], ...] = ()

    def with_examples(self, examples: Iterable[tuple[str, str]]) -> FewShotFamily:
        """The same family with these pairs of a query and its answer; few and short ones, they are read each time."""
        return replace(self, examples=tuple(examples))

    def query_instruction(self, task: str | None = None) -> str:
        """The examples, written like queries with their answers, then what stands before the query itself."""
        own = super().query_instruction(task)
        shown = "".join(f"{own}{query}{self.query_suffix}{answer}\n\n" for query, answer in self.examples)
        return shown + own


@checked_parameters
@dataclass(frozen=True)
class SitEmbFamily(Family):
    """SitEmb-v1.5 (Wu et al. 2025): the chunk, its end token, a sentence, the context; pooled at the last token.

    The model is causal, so the first part is the chunk alone: `ChunkScheme.residual` mixes the two as in the paper.

    Attributes:
        separator: What stands between the chunk and its context.
    """

    separator: str = (
        "<|endoftext|>The context in which the chunk is situated is given below. "
        "Please encode the chunk by being aware of the context. Context: "
    )

    def situated_text(
        self, chunk: str, before: str, after: str, *, lead: str = "", title: str | None = None, overlap: int = 64
    ) -> SpanText:
        """The chunk followed by its neighbourhood (itself included), pooled as a whole text is."""
        prefix = self.document_instruction(title)
        return SpanText(
            f"{prefix}{chunk}{self.separator}{lead}{before}{chunk}{after}", prefix=len(prefix), overlap=overlap
        )

    @property
    def situates(self) -> bool:
        """True: it was trained on this."""
        return True
