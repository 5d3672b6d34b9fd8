"""What joining a file's pages changes, on the examples' handbook printed as pages without headings.

    python -m benchmarks.pages

Each document is wrapped at 90 characters and cut into pages of 30 lines, as a loader returns a PDF's text. A question's
answer is its section's text, wherever the chunks' borders are.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import numpy as np

from examples.asking import Question, load_questions
from situate.chunkers import AutoChunker, Chunk, Document, read_documents
from situate.chunkers.headings import HeadingPath, outline
from situate.embedders import Embedder
from situate.integrations._shared.pages import cut_document, joined
from situate.retrievers import Index, PipelineConfig
from situate.retrievers.evaluation import Comparison

EXAMPLES = Path(__file__).parent.parent / "examples"
WIDTH, LINES = 90, 30


def printed(document: Document) -> list[Document]:
    """The document's pages, as `PyPDFLoader` returns them."""
    lines: list[str] = []
    for block in document.text.split("\n\n"):
        for line in block.strip().lstrip("# ").splitlines():
            lines += textwrap.wrap(line, WIDTH)
        lines.append("")
    texts = ["\n".join(lines[at : at + LINES]).strip("\n") for at in range(0, len(lines), LINES)]
    known = {"source": document.id, "total_pages": len(texts)}
    return [Document(f"{document.id}@{n}", text, {**known, "page": n}) for n, text in enumerate(texts) if text.strip()]


def letters(text: str) -> str:
    """The text without white space and heading marks, by which chunks of both kinds are placed."""
    return re.sub(r"[\s#]", "", text)


def sections(document: Document) -> dict[str, tuple[int, int]]:
    """Per heading path, the span of its text in the document's `letters`."""
    headings = outline(document.text).headings
    path = HeadingPath(headings)
    ends = [*(heading.start for heading in headings[1:]), len(document.text)]
    return {
        " > ".join(path.at(heading.start)): (
            len(letters(document.text[: heading.end])),
            len(letters(document.text[:end])),
        )
        for heading, end in zip(headings, ends, strict=True)
    }


def judged(hits: list[Chunk], question: Question, documents: dict[str, Document]) -> tuple[float, float]:
    """The share of the answer in the first three hits, and the reciprocal rank of the first that is half of it."""
    document = documents[question.document or ""]
    start, end = next(span for name, span in sections(document).items() if name.endswith(question.heading))
    whole, found, first = letters(document.text), np.zeros(end - start, dtype=bool), 0.0
    for rank, chunk in enumerate(hits, 1):
        if chunk.document_id.partition("@")[0] != document.id:
            continue
        words = letters(chunk.text)
        at = whole.find(words)
        low, high = max(start, at), min(end, at + len(words))
        if low < high and rank <= 3:
            found[low - start : high - start] = True
        if not first and high - low >= min(len(words), end - start) / 2:
            first = 1 / rank
    return float(found.mean()), first


def main() -> None:
    """Index the pages apart and joined, ask the handbook's questions, print the tables."""
    embedder = Embedder(dtype="float32")
    documents = {document.id: document for document in read_documents(EXAMPLES / "documents")}
    questions = [question for question in load_questions(EXAMPLES / "questions.json") if question.document]
    for size in (100, 200):
        chunker = AutoChunker(size, 0, embedder.tokenizer)
        values: dict[str, dict[str, np.ndarray]] = {}
        for name in ("pages apart", "joined"):
            with Index(embedder, config=PipelineConfig.fast()) as index:
                for pages in map(printed, documents.values()):
                    files = pages if name == "pages apart" else [joined(pages)]
                    index.add_chunks([(file, cut_document(file, chunker)) for file in files])
                hits = [[hit.chunk for hit in index.search(question.text, k=10)] for question in questions]
            both = np.array([judged(found, asked, documents) for found, asked in zip(hits, questions, strict=True)])
            values[name] = {"answer in 3 chunks": both[:, 0], "RR": both[:, 1]}
        print(Comparison(f"handbook in pages, chunks of {size} tokens", values).table("pages apart"))


if __name__ == "__main__":
    main()
