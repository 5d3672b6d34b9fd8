"""Source code, cut along its syntax tree."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from functools import cached_property
from types import ModuleType
from typing import TYPE_CHECKING, Any

from situate.chunkers.definitions import definitions, paths
from situate.chunkers.errors import InputError, MissingExtraError
from situate.chunkers.sizing import SizedChunker, Splitter
from situate.chunkers.spans import base_context, chunks_from_spans

if TYPE_CHECKING:
    from situate.chunkers.types import Chunk, Document

#: Languages whose grammar is not the function ``language`` of ``tree_sitter_<language>``.
_GRAMMARS = {
    "typescript": ("tree_sitter_typescript", "language_typescript"),
    "tsx": ("tree_sitter_typescript", "language_tsx"),
    "php": ("tree_sitter_php", "language_php"),
    "ocaml": ("tree_sitter_ocaml", "language_ocaml"),
    "xml": ("tree_sitter_xml", "language_xml"),
    "csharp": ("tree_sitter_c_sharp", "language"),
}


@dataclass(frozen=True)
class CodeChunker(SizedChunker):
    """Code cut at definitions, statements and expressions, the outermost that fit (tree-sitter).

    Each language is a package of its own, ``tree-sitter-<language>``; the extra ``code`` brings the usual ones. Text
    that does not parse is cut all the same. The classes and functions that hold a whole chunk are its
    ``context.headings``, outermost first, where the grammar brings a query for definitions (most do). The identifiers'
    words are searched by default: see `LexicalScheme.split_identifiers`.

    Attributes:
        size: The most that a chunk holds, in the model's tokens without special tokens; characters without a
            ``tokenizer``.
        overlap: The most that two neighbouring chunks share, in the same unit.
        tokenizer: The embedding model's tokenizer.
        language: "python", "javascript", "rust", ...: the last part of the grammar package's name.

    Raises:
        MissingExtraError: On use, where the language's grammar is not installed.
    """

    language: str = "python"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.language.replace("_", "").isidentifier():
            raise InputError(f"language={self.language!r} is no name of a language, such as 'python'")

    def split(self, document: Document) -> list[Chunk]:
        """The document's chunks in order; [] where it is empty or only white space."""
        text = document.text
        spans = self._spans("code", text, 0, len(text))
        if not spans or self._tags is None:
            return chunks_from_spans(document, spans)
        base = base_context(document)
        path_of = dict(zip(spans, paths(definitions(text, self._grammar, self._tags), spans), strict=True))
        return chunks_from_spans(document, spans, lambda *span: replace(base, headings=path_of[span]))

    def _splitter(self, kind: str, size: int) -> Splitter:
        if kind != "code":
            return super()._splitter(kind, size)
        known = self._splitters.get((kind, size))
        if known is None:
            from semantic_text_splitter import CodeSplitter

            if self._tokenizer is None:
                known = CodeSplitter(self._grammar, size, overlap=self.overlap)
            else:
                tokenizer = self._tokenizer
                known = CodeSplitter.from_huggingface_tokenizer(self._grammar, tokenizer, size, overlap=self.overlap)
            self._splitters[kind, size] = known
        return known

    @cached_property
    def _grammar(self) -> Any:
        return getattr(self._package, self._names[1])()

    @cached_property
    def _tags(self) -> str | None:
        """The grammar's own query for definitions."""
        return getattr(self._package, "TAGS_QUERY", None) or None

    @property
    def _names(self) -> tuple[str, str]:
        """Module and function of the grammar."""
        return _GRAMMARS.get(self.language, (f"tree_sitter_{self.language}", "language"))

    @cached_property
    def _package(self) -> ModuleType:
        module, _ = self._names
        try:
            return importlib.import_module(module)
        except ImportError as error:
            package = module.replace("_", "-")
            raise MissingExtraError.of(package, "code", f"cutting {self.language} code") from error
