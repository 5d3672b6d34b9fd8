"""The presets through the classes that users of LlamaIndex and LangChain call.

    python -m benchmarks.frameworks FOLDER [FOLDER ...]

A folder holds a judged set, as for `benchmarks.quality`. Documents are added as each framework's own, and its
retriever's results are measured; beside it stand the same presets without a framework. Encodings are kept as there.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

from langchain_core.documents import Document as LangChainDocument
from llama_index.core import Document as LlamaIndexDocument

from benchmarks.quality import CACHE, DOCUMENT_MEASURES, SPAN_MEASURES, load
from situate.chunkers import AutoChunker, Chunk, Document
from situate.embedders import Embedder
from situate.integrations import langchain, llama_index
from situate.retrievers import Hit, Index, PipelineConfig
from situate.retrievers.evaluation import CachedEncoder, compare

Search = Callable[[str], Iterable[Hit]]
#: How many passages are retrieved: as many as the measures use.
DEPTH = 100


def without_framework(
    stack: ExitStack, documents: list[Document], embedder: Embedder, chunker: AutoChunker, config: PipelineConfig
) -> Search:
    """`Index`."""
    index = stack.enter_context(Index(embedder, chunker=chunker, config=config))
    index.add(documents)
    return lambda query: index.search(query, k=DEPTH)


def through_llama_index(
    stack: ExitStack, documents: list[Document], embedder: Embedder, chunker: AutoChunker, config: PipelineConfig
) -> Search:
    """LlamaIndex's `SituateRetriever`."""
    retriever = llama_index.SituateRetriever.from_documents(
        [LlamaIndexDocument(id_=d.id, text=d.text, metadata=dict(d.metadata)) for d in documents],
        embed_model=llama_index.SituateEmbedding.from_embedder(embedder),
        similarity_top_k=DEPTH,
        chunker=chunker,
        config=config,
    )
    stack.callback(retriever.index.close)

    def search(query: str) -> Iterable[Hit]:
        for found in retriever.retrieve(query):
            node = found.node
            yield _hit(node.ref_doc_id or "", node.start_char_idx, node.text, found.score or 0.0)

    return search


def through_langchain(
    stack: ExitStack, documents: list[Document], embedder: Embedder, chunker: AutoChunker, config: PipelineConfig
) -> Search:
    """LangChain's `SituateRetriever`."""
    retriever = langchain.SituateRetriever.from_documents(
        [LangChainDocument(id=d.id, page_content=d.text, metadata={**d.metadata, "source": d.id}) for d in documents],
        langchain.SituateEmbeddings.from_embedder(embedder),
        splitter=chunker,
        config=config,
        settings={"k": DEPTH},
    )
    stack.callback(retriever.index.close)

    def search(query: str) -> Iterable[Hit]:
        for found in retriever.invoke(query):
            said = found.metadata
            yield _hit(said["source"], said["start_index"], found.page_content, said["relevance_score"])

    return search


def _hit(document_id: str, start: int, text: str, score: float) -> Hit:
    return Hit(Chunk(f"{document_id} {start}", document_id, 0, text, start, start + len(text)), score)


def main() -> None:
    """Print a table per set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--preset", action="append", choices=("plain", "hybrid", "fast", "quality"))
    parser.add_argument("--cache", type=Path, default=CACHE, help="where encoded texts are kept")
    arguments = parser.parse_args()
    plain = Embedder()
    embedder = Embedder(encoder=CachedEncoder.of(plain, arguments.cache))
    chunker = AutoChunker(size=200, tokenizer=plain.tokenizer)
    ways = {"Index": without_framework, "LlamaIndex": through_llama_index, "LangChain": through_langchain}
    for folder in arguments.folders:
        data = load(folder)
        documents = [document for document in data.documents if document.text.strip()]
        with ExitStack() as stack:
            searches = {
                f"{preset}, {name}": way(stack, documents, embedder, chunker, getattr(PipelineConfig, preset)())
                for preset in arguments.preset or ("fast", "quality")
                for name, way in ways.items()
            }
            measures = SPAN_MEASURES if data.has_spans else DOCUMENT_MEASURES
            comparison = compare(data, searches, measures, count_tokens=chunker.count)
        print(f"\n{comparison.table(next(iter(searches)))}")


if __name__ == "__main__":
    main()
