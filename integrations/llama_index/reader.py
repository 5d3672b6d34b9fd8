"""`SituateReader`: files as LlamaIndex documents, with pages and headings."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llama_index.core.bridge.pydantic import Field, PrivateAttr, SecretStr
from llama_index.core.readers.base import BasePydanticReader
from llama_index.core.schema import Document as LlamaDocument

from situate.chunkers import Document, read_documents
from situate.chunkers.readers.pdf.reader import MAX_PAGES, SECONDS, PdfReader
from situate.errors import InputError
from situate.integrations._shared.component import Configured, Handle, PicklesAsConfig
from situate.types import PAGE, PAGE_SPAN, PAGE_STARTS, PAGES

#: Metadata keys that no model reads: they say nothing about what a document is about.
_HIDDEN = (PAGE_STARTS, PAGE, PAGES, PAGE_SPAN, "format", "path", "file_path", "file_name")


class SituateReader(Configured, PicklesAsConfig, BasePydanticReader):
    """Reads PDF and every other kind of file that `read_documents` reads, a file being one document.

    For `SimpleDirectoryReader`: ``file_extractor={".pdf": SituateReader()}``. Headings and tables are Markdown's; the
    metadata tell where a PDF's pages begin, and `LateChunkingNodeParser` and `SituateRetriever` write into each node on
    which of them it stands.

    A document's id is its file's path.

    Attributes:
        password: Opens encrypted PDF files.
        max_pages: Pages of a PDF at most; None for no limit.
        seconds: The most time that a PDF may take; None for no limit.
    """

    is_remote: bool = False
    password: SecretStr | None = Field(default=None, exclude=True, repr=False, description="Opens encrypted PDF files.")
    max_pages: int | None = Field(default=MAX_PAGES, gt=0, description="Pages of a PDF at most.")
    seconds: float | None = Field(default=SECONDS, gt=0, description="The most time that a PDF may take.")

    _pdf: Handle[PdfReader] = PrivateAttr(default_factory=Handle)

    @classmethod
    def class_name(cls) -> str:
        """The name LlamaIndex serialises the class by."""
        return "SituateReader"

    def load_data(
        self, file: str | Path, extra_info: dict[str, Any] | None = None, fs: Any = None
    ) -> list[LlamaDocument]:
        """The documents of a file or a folder.

        Args:
            file: Its path.
            extra_info: Metadata of the file, which every document gets.
            fs: The fsspec file system that holds a PDF file; None: this machine's.

        Raises:
            InputError: The file cannot be read.
            MissingExtraError: A PDF file is there, and the extra ``documents`` is not installed.
        """
        return list(self.lazy_load_data(file, extra_info, fs))

    def lazy_load_data(
        self, file: str | Path, extra_info: dict[str, Any] | None = None, fs: Any = None
    ) -> Iterator[LlamaDocument]:
        """`load_data`, one document at a time."""
        path = Path(file)
        for document in self._documents(path, fs):
            metadata = dict(document.metadata)
            name = document.id
            if "path" in metadata:
                # The lines of a data set have ids of their own.
                name = (path if metadata["path"] == path.name else path / metadata["path"]).as_posix()
                metadata |= {"file_path": name, "file_name": Path(name).name}
            metadata |= extra_info or {}
            hidden = [key for key in _HIDDEN if key in metadata]
            yield LlamaDocument(
                id_=name,
                text=document.text,
                metadata=metadata,
                excluded_embed_metadata_keys=hidden,
                excluded_llm_metadata_keys=hidden,
            )

    def _documents(self, path: Path, fs: Any) -> Iterator[Document]:
        limits: dict[str, Any] = {
            "password": self.password.get_secret_value() if self.password is not None else None,
            "max_pages": self.max_pages,
            "seconds": self.seconds,
        }
        if path.suffix.lower() == ".pdf" and (fs is not None or path.is_file()):
            # One process reads all PDFs of a SimpleDirectoryReader, which hands them over one by one.
            pdf = self._pdf.get(limits, lambda: PdfReader(**limits))
            with fs.open(path.as_posix(), "rb") if fs is not None else path.open("rb") as stream:
                data = stream.read()
            text, metadata = pdf.document(data, path.name)
            yield Document(path.name, text, {"path": path.name} | metadata)
        elif fs is not None:
            raise InputError(f"{path.as_posix()!r} is no PDF file, and only those are read through fs=")
        else:
            yield from read_documents(path, on_error="raise" if path.is_file() else "skip", **limits)
