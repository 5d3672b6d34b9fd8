"""A LlamaIndex node as a Qdrant point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

from llama_index.core.schema import BaseNode

from situate.errors import InputError
from situate.integrations.llama_index.origin import STAMP_KEY
from situate.types import stable_id
from situate.vectors import check_finite

if TYPE_CHECKING:
    from qdrant_client import models

    from situate.retrievers.index.lexical import SparseVector

#: The payload key that LlamaIndex keeps the document's id under for Qdrant.
DOC_ID = "doc_id"


def point_id(node_id: str) -> str:
    """The point's id: the node's own where that is a UUID, else a uuid5 of it."""
    try:
        if str(UUID(node_id)) == node_id:
            return node_id
    except ValueError:
        pass
    return stable_id("node", node_id)


def with_ids(node_ids: Sequence[str]) -> models.Filter:
    """The points of these nodes."""
    from qdrant_client import models

    return models.Filter(must=[models.HasIdCondition(has_id=[point_id(node_id) for node_id in node_ids])])


def in_documents(doc_ids: Sequence[str]) -> models.Filter:
    """The points of these documents' nodes."""
    from qdrant_client import models

    return models.Filter(must=[models.FieldCondition(key=DOC_ID, match=models.MatchAny(any=list(doc_ids)))])


def sparse_vector(vector: SparseVector) -> models.SparseVector:
    """The vector as Qdrant takes it."""
    from qdrant_client import models

    return models.SparseVector(indices=vector.indices.tolist(), values=vector.values.tolist())


def lowered(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Lower-case copies of texts and lists of texts: Qdrant has no substring match that ignores case."""
    copies: dict[str, Any] = {}
    for key, value in metadata.items():
        if isinstance(value, str) and key != STAMP_KEY:
            copies[key] = value.lower()
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            copies[key] = [item.lower() for item in value]
    return copies


def dimension(nodes: Sequence[BaseNode]) -> int:
    """The length of all the nodes' embeddings.

    Raises:
        InputError: A node has none, or one of another length.
        NonFiniteVectorError: An embedding holds NaN or infinity.
    """
    for node in nodes:
        if node.embedding is None:
            raise InputError(f"node {node.node_id!r} has no embedding: embed the nodes before they are stored")
        if len(node.embedding) != len(nodes[0].embedding or ()):
            raise InputError(
                f"node {node.node_id!r} has an embedding of {len(node.embedding)} dimensions, "
                f"node {nodes[0].node_id!r} one of {len(nodes[0].embedding or ())}: they come from different models"
            )
        check_finite(node.embedding, f"nothing of this call was stored: the embedding of node {node.node_id!r} holds")
    return len(nodes[0].get_embedding())
