"""A peer library, served over stdin and stdout so that it can run in an environment of its own.

One JSON request a line, one JSON answer a line; times are seconds. Started by `benchmarks.encoder`, never by hand.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


class Peer:
    """One library with one model loaded."""

    def __init__(self, name: str, model: str, folder: str) -> None:
        self.name = name
        if name == "sentence-transformers":
            from sentence_transformers import SentenceTransformer

            self.model: Any = SentenceTransformer(model, device="cpu")
        elif name == "openvino-bf16":
            self.model = Compiled(model, openvino_session(model))
        elif name == "onnx-int8":
            self.model = Compiled(model, onnx_session(model, folder))
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


class Compiled:
    """A compiled BERT with sentence-transformers' steps around it: batches of 32 in order of length, mean, norm."""

    def __init__(self, model: str, session: Callable[[Any, Any], Any]) -> None:
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
        self.tokenizer.enable_truncation(256)
        self.tokenizer.enable_padding()
        self.session = session

    def encode(self, texts: str | list[str]) -> Any:
        """float32 ``[texts, 384]``."""
        import numpy as np

        texts = [texts] if isinstance(texts, str) else texts
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        out = np.zeros((len(texts), 384), dtype=np.float32)
        for first in range(0, len(texts), 32):
            rows = order[first : first + 32]
            batch = self.tokenizer.encode_batch([texts[i] for i in rows])
            ids = np.array([e.ids for e in batch], dtype=np.int64)
            mask = np.array([e.attention_mask for e in batch], dtype=np.int64)
            hidden = self.session(ids, mask)
            mean = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
            out[rows] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return out


def openvino_session(model: str, precision: str | None = "bf16") -> Callable[[Any, Any], Any]:
    """The model compiled by OpenVINO, computing in bfloat16, or in what it chooses for the CPU."""
    return _openvino_session(
        _openvino_model(model), {} if precision is None else {"INFERENCE_PRECISION_HINT": precision}
    )


def openvino_int8_session(model: str, texts: list[str]) -> Callable[[Any, Any], Any]:
    """The model compiled by OpenVINO, weights and activations quantised to int8 by NNCF on these texts."""
    import nncf
    import numpy as np
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
    tokenizer.enable_truncation(256)
    inputs = [np.array([tokenizer.encode(text).ids], dtype=np.int64) for text in texts]
    calibration = nncf.Dataset([{"input_ids": ids, "attention_mask": np.ones_like(ids)} for ids in inputs])
    kind = nncf.ModelType.TRANSFORMER
    return _openvino_session(nncf.quantize(_openvino_model(model), calibration, model_type=kind), {})


def _openvino_model(model: str) -> Any:
    import openvino
    import torch
    from transformers import AutoModel

    example = {"input_ids": torch.ones(2, 9, dtype=torch.long), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
    return openvino.convert_model(AutoModel.from_pretrained(model).eval(), example_input=example)


def _openvino_session(model: Any, settings: dict[str, str]) -> Callable[[Any, Any], Any]:
    import openvino

    threads = {"INFERENCE_NUM_THREADS": os.environ["OMP_NUM_THREADS"]}
    compiled = openvino.Core().compile_model(model, "CPU", threads | settings)
    return lambda ids, mask: compiled({"input_ids": ids, "attention_mask": mask})[0]


def onnx_session(model: str, folder: str) -> Callable[[Any, Any], Any]:
    """The model exported to ONNX, its weights quantised to int8."""
    import onnxruntime
    import torch
    from onnxruntime.quantization import quantize_dynamic
    from transformers import AutoModel

    class Hidden(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = AutoModel.from_pretrained(model).eval()

        def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            hidden: torch.Tensor = self.inner(input_ids=ids, attention_mask=mask).last_hidden_state
            return hidden

    example = torch.ones(2, 9, dtype=torch.long)
    axes = {0: "batch", 1: "tokens"}
    torch.onnx.export(
        Hidden().eval(),
        (example, example),
        f"{folder}/model.onnx",
        input_names=["input_ids", "attention_mask"],
        output_names=["hidden"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "hidden": axes},
        dynamo=False,
    )
    quantize_dynamic(f"{folder}/model.onnx", f"{folder}/int8.onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    session = onnxruntime.InferenceSession(f"{folder}/int8.onnx", options)
    return lambda ids, mask: session.run(["hidden"], {"input_ids": ids, "attention_mask": mask})[0]


def answer(peer: Peer, request: dict[str, Any]) -> dict[str, Any]:
    """Run the request, and return how long it took."""
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
    os.dup2(2, 1)  # libraries print to stdout
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
