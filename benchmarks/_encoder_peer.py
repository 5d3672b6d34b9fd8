"""What users use today, served over stdin and stdout so that it can live in an environment of its own.

One JSON request a line, one JSON answer a line; times are seconds. Started by `benchmarks.encoder`, never by hand.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any


class Peer:
    """One library with one model loaded."""

    def __init__(self, name: str, model: str, folder: str) -> None:
        self.name = name
        if name == "sentence-transformers":
            from sentence_transformers import SentenceTransformer

            self.model: Any = SentenceTransformer(model, device="cpu")
        elif name == "openvino-bf16":
            from sentence_transformers import SentenceTransformer

            self.model = SentenceTransformer(
                model,
                device="cpu",
                backend="openvino",
                model_kwargs={"export": True, "ov_config": {"INFERENCE_PRECISION_HINT": "bf16"}},
            )
        elif name == "onnx-int8":
            self.model = _onnx_int8(model, folder)
        elif name == "llama-index":
            from llama_index.embeddings.huggingface import HuggingFaceEmbedding

            self.model = HuggingFaceEmbedding(model_name=model, device="cpu")
        elif name == "langchain":
            from langchain_huggingface import HuggingFaceEmbeddings

            self.model = HuggingFaceEmbeddings(model_name=model, model_kwargs={"device": "cpu"})
        else:
            raise ValueError(f"unknown peer {name!r}")

    def bulk(self, texts: list[str]) -> list[list[float]]:
        """All texts in one call."""
        if self.name == "llama-index":
            found: list[list[float]] = self.model.get_text_embedding_batch(texts)
        elif self.name == "langchain":
            found = self.model.embed_documents(texts)
        else:
            found = self.model.encode(texts).tolist()
        return found

    def query(self, text: str) -> None:
        """One query."""
        if self.name == "llama-index":
            self.model.get_query_embedding(text)
        elif self.name == "langchain":
            self.model.embed_query(text)
        else:
            self.model.encode(text)

    async def concurrent(self, texts: list[str]) -> None:
        """Many queries at once, each from a task of its own."""
        if self.name == "llama-index":
            await asyncio.gather(*(self.model.aget_query_embedding(text) for text in texts))
        elif self.name == "langchain":
            await asyncio.gather(*(self.model.aembed_query(text) for text in texts))
        else:
            await asyncio.gather(*(asyncio.to_thread(self.model.encode, text) for text in texts))


def _onnx_int8(model: str, folder: str) -> Any:
    from sentence_transformers import SentenceTransformer, export_dynamic_quantized_onnx_model

    whole = SentenceTransformer(model, device="cpu", backend="onnx", model_kwargs={"export": True})
    whole.save_pretrained(folder)
    export_dynamic_quantized_onnx_model(whole, "avx512_vnni", folder)
    name = "onnx/model_qint8_avx512_vnni.onnx"
    return SentenceTransformer(folder, device="cpu", backend="onnx", model_kwargs={"file_name": name})


def answer(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked, and say how long it took."""
    texts = request["texts"]
    start = time.perf_counter()
    if request["do"] == "bulk":
        vectors = peer.bulk(texts)
        return {"seconds": time.perf_counter() - start, "vectors": vectors if request.get("vectors") else None}
    if request["do"] == "tens":
        for first in range(0, len(texts), 10):
            peer.bulk(texts[first : first + 10])
    elif request["do"] == "queries":
        times = []
        for text in texts:
            begin = time.perf_counter()
            peer.query(text)
            times.append(time.perf_counter() - begin)
        return {"seconds": sorted(times)[len(times) // 2]}
    elif request["do"] == "concurrent":
        asyncio.run(peer.concurrent(texts))
    return {"seconds": time.perf_counter() - start}


def main() -> None:
    """Load the peer named on the command line and answer until the input ends."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to stdout as they please
    try:
        peer = Peer(*sys.argv[1:4])
        hello: dict[str, Any] = {"ready": True}
    except Exception as error:  # noqa: BLE001  whatever keeps a peer from running is the row's result
        hello = {"ready": False, "why": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
    print(json.dumps(hello), file=replies, flush=True)
    for line in sys.stdin if hello["ready"] else ():
        print(json.dumps(answer(peer, json.loads(line))), file=replies, flush=True)


if __name__ == "__main__":
    main()
