"""`SituateLoader`: files as LangChain documents, with pages and headings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

from langchain_core.document_loaders import BaseLoader
from langchain_core.documents import Document as LangChainDocument

from situate.chunkers import read_documents
from situate.chunkers.readers.pdf.reader import MAX_PAGES, SECONDS
from situate.integrations.langchain.documents import from_document
from situate.parameters import checked_parameters


@checked_parameters
class SituateLoader(BaseLoader):
    """Loads PDF and every other kind of file that `read_documents` reads, a file being one document.

    Headings and tables are Markdown's; the metadata tell where a PDF's pages begin, and `SituateTextSplitter`,
    `SituateVectorStore` and `SituateDocumentIndex` write into each chunk on which of them it stands. ``source`` is the
    file's path, as LangChain's indexing API expects it; the id of a document is that path, too.

    Args:
        path: A file or a folder.
        on_error: "skip" goes on after a file that cannot be read, and reports it in a warning at the end; "raise"
            stops there.
        password: Opens encrypted PDF files.
        max_pages: Pages of a PDF at most; None for no limit.
        seconds: The most time that a PDF may take; None for no limit.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        on_error: Literal["skip", "raise"] = "skip",
        password: str | None = None,
        max_pages: int | None = MAX_PAGES,
        seconds: float | None = SECONDS,
    ) -> None:
        self.path = Path(path)
        self.on_error: Literal["skip", "raise"] = on_error
        self.max_pages = max_pages
        self.seconds = seconds
        self._password = password

    def lazy_load(self) -> Iterator[LangChainDocument]:
        """The documents, one at a time.

        Raises:
            InputError: There is no such path, an argument is out of range, or, with ``on_error="raise"``, a file cannot
                be read.
            MissingExtraError: A PDF file is there, and the extra ``documents`` is not installed.
        """
        base = self.path.parent if self.path.is_file() else self.path
        for document in read_documents(
            self.path,
            on_error=self.on_error,
            password=self._password,
            max_pages=self.max_pages,
            seconds=self.seconds,
        ):
            if "path" in document.metadata:
                # The lines of a data set have ids of their own.
                source = (base / document.metadata["path"]).as_posix()
                document = replace(document, id=source, metadata={"source": source, **document.metadata})
            yield from_document(document)
