"""The chunker that fits a document's kind."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Protocol

from situate.chunkers.base import SizedChunker
from situate.chunkers.markdown import MarkdownChunker
from situate.chunkers.text import TextChunker
from situate.errors import FallbackWarning, InputError, MissingExtraError, ModelError
from situate.parameters import checked_parameters

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from situate.chunkers.code import CodeChunker
    from situate.types import Chunk, Document

_MARKDOWN_SUFFIXES = frozenset({".md", ".markdown", ".mdx", ".mdown"})
# A line that can only be meant as a heading: at the top or after a blank line, and followed by a blank line.
_HEADING = re.compile(r"(?:\A|\n[ \t]*\r?\n)\ufeff*#{1,6} +\S[^\r\n]*\r?(?:\n[ \t]*\r?\n|\n?\Z)")

#: Characters per token of English text.
CHARACTERS = 4


class HasTokenizer(Protocol):
    """An embedding model."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer.

        Raises:
            ModelError: The model has none that can be used here.
        """
        ...


@checked_parameters
@dataclass(frozen=True)
class AutoChunker(SizedChunker):
    """`MarkdownChunker` for Markdown, `CodeChunker` for source code, `TextChunker` for any other text.

    Metadata ``format`` ("markdown", "code" with its ``language``, or "text") decides; else the suffix of metadata
    ``path`` or of the document's id; and where that is unknown, whether a line of the text can only be meant as a
    Markdown heading.

    Attributes:
        size: The most that a chunk holds, in the model's tokens without special tokens; characters without a
            ``tokenizer``.
        overlap: The most that two neighbouring chunks share, in the same unit.
        tokenizer: The embedding model's tokenizer.
    """

    @classmethod
    def for_model(cls, model: HasTokenizer, size: int, overlap: int = 0) -> AutoChunker:
        """Sized in the tokens of an embedding model.

        Where its tokenizer is not on this machine (a served model's) or is written in plain Python, sizes are counted
        in characters instead, four for a token, as many as English has.
        """
        try:
            return cls(size, overlap, model.tokenizer)
        except ModelError:
            return cls(size * CHARACTERS, overlap * CHARACTERS)

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks in order; [] where it is empty or only white space."""
        language = document.metadata.get("language")
        if document.metadata.get("format") == "code" and isinstance(language, str):
            return self._code(document, language)
        return (self._markdown if is_markdown(document) else self._text).split(document)

    def _code(self, document: Document, language: str) -> list[Chunk]:
        """The chunks of source code; as text, where the language's grammar is not installed."""
        from situate.chunkers.code import CodeChunker  # imports numpy

        try:
            chunker = self._coders.get(language)
            if chunker is None:
                chunker = CodeChunker(self.size, self.overlap, self.tokenizer, self.balance, language)
            chunks = chunker.split(document)
        except (InputError, MissingExtraError) as error:
            warnings.warn(f"code is cut as text: {error}", FallbackWarning, stacklevel=3)
            chunker, chunks = self._text, self._text.split(document)
        self._coders[language] = chunker
        return chunks

    @cached_property
    def _coders(self) -> dict[str, CodeChunker | TextChunker]:
        return {}

    @cached_property
    def _markdown(self) -> MarkdownChunker:
        return MarkdownChunker(self.size, self.overlap, self.tokenizer, self.balance)

    @cached_property
    def _text(self) -> TextChunker:
        return TextChunker(self.size, self.overlap, self.tokenizer, self.balance)


def is_markdown(document: Document) -> bool:
    """Whether the document is to be read as Markdown, by the rule of `AutoChunker`."""
    declared = document.metadata.get("format")
    if isinstance(declared, str) and declared:
        return declared.lower() in {"markdown", "md", "text/markdown"}
    for name in (document.metadata.get("path"), document.id):
        suffix = PurePosixPath(name).suffix.lower() if isinstance(name, str) else ""
        if suffix in _MARKDOWN_SUFFIXES:
            return True
        if suffix == ".txt":
            return False
    return _HEADING.search(document.text) is not None
