"""Suffixes of office files, books, mail, tables and source code, and how each is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from situate.chunkers.readers.decoding import decoded_text
from situate.chunkers.readers.epub import read_epub
from situate.chunkers.readers.mail import read_eml, read_msg
from situate.chunkers.readers.notebook import read_notebook
from situate.chunkers.readers.office import read_docx, read_pptx, read_xlsx
from situate.chunkers.readers.rst import read_rst
from situate.chunkers.readers.rtf import read_rtf
from situate.chunkers.readers.tables import read_csv

#: Languages of source files, as `CodeChunker` names them.
LANGUAGES: Mapping[str, str] = {
    ".py": "python",
    ".js": "javascript",
    ".mjs": "javascript",
    ".cjs": "javascript",
    ".jsx": "javascript",
    ".ts": "typescript",
    ".tsx": "tsx",
    ".java": "java",
    ".kt": "kotlin",
    ".scala": "scala",
    ".go": "go",
    ".rs": "rust",
    ".c": "c",
    ".h": "c",
    ".cc": "cpp",
    ".cpp": "cpp",
    ".hpp": "cpp",
    ".cs": "csharp",
    ".rb": "ruby",
    ".php": "php",
    ".swift": "swift",
    ".lua": "lua",
    ".sh": "bash",
    ".sql": "sql",
}


def _code(language: str, data: bytes, name: str) -> tuple[str, dict[str, Any]]:
    return decoded_text(data, name), {"format": "code", "language": language}


#: A file's bytes and name -> its text and metadata, by suffix.
FORMATS: Mapping[str, Callable[[bytes, str], tuple[str, dict[str, Any]]]] = {
    ".docx": read_docx,
    ".docm": read_docx,
    ".pptx": read_pptx,
    ".pptm": read_pptx,
    ".xlsx": read_xlsx,
    ".xlsm": read_xlsx,
    ".epub": read_epub,
    ".rtf": read_rtf,
    ".eml": read_eml,
    ".msg": read_msg,
    ".ipynb": read_notebook,
    ".rst": read_rst,
    ".csv": read_csv,
    ".tsv": read_csv,
    **{suffix: partial(_code, language) for suffix, language in LANGUAGES.items()},
}
