"""The layers of a decoder, compiled by torch while the model goes on working.

transformers runs a decoder's norms, rotary positions and gated activations as some fifty small kernels a layer, which
on a GPU take more time than its products. torch.compile fuses them, after tens of seconds. So it begins when a process
has read so many tokens that it pays, in a thread of its own, and the layers change when it is done.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import nullcontext
from itertools import accumulate
from typing import Any

import torch

from situate.embedders.forward import attention
from situate.embedders.forward.modules import PackedForward
from situate.embedders.forward.packing import Packing

_LOG = logging.getLogger(__name__)
#: Tokens after which compilation pays: what a 0.6B decoder reads while it goes on, and saves in as many more.
_TOKENS = 10_000_000
#: Tokens of the passes that compiled layers are tried on.
_TRIED = 4096
#: Relative error that compiled layers are allowed, against those of transformers in the same format.
_LIMIT = 0.05


class CompiledForward:
    """A packed pass whose layers are compiled when enough tokens have been read.

    Args:
        forward: The pass.
        model: The model that it runs, of which `fits` is true; its layers are changed.
        after: Tokens after which compilation begins.
        backend: torch.compile's.
    """

    def __init__(
        self,
        forward: PackedForward,
        model: Any,
        *,
        after: int = _TOKENS,
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        self._forward, self._model, self._after, self._backend = forward, model, after, backend
        self._tokens = 0
        self._thread: threading.Thread | None = None
        self.ready = False

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether the model is a stack of layers of one kind."""
        layers = getattr(model, "layers", None)
        return isinstance(layers, torch.nn.ModuleList) and len({type(layer) for layer in layers}) == 1

    def __call__(self, ids: torch.Tensor, packing: Packing) -> torch.Tensor:
        """int64 ``[tokens]`` ids -> ``[tokens, hidden]``."""
        if self.ready:
            # A pass that needs another compilation (of one token, say) is not worth waiting for it.
            with torch.compiler.set_stance("eager_on_recompile"):
                return self._forward(ids, packing)
        self._tokens += len(ids)
        if self._tokens >= self._after and self._thread is None:
            self._thread = threading.Thread(
                target=self._compile, args=(ids, packing), name="situate-compile", daemon=True
            )
            self._thread.start()
        return self._forward(ids, packing)

    def wait(self, seconds: float) -> bool:
        """Wait for a compilation that has begun; whether the layers are compiled."""
        if self._thread is not None:
            self._thread.join(seconds)
        return self.ready

    def _compile(self, ids: torch.Tensor, packing: Packing) -> None:
        try:
            with torch.cuda.device(ids.device) if ids.is_cuda else nullcontext(), torch.inference_mode():
                tried = [(ids[: sum(part)], Packing.of(part, ids.device)) for part in _parts(packing.lengths)]
                wanted = [self._forward(*each).float() for each in tried]
                self._change_layers()
                errors = [
                    float(
                        torch.linalg.vector_norm(self._forward(*each).float() - right) / torch.linalg.vector_norm(right)
                    )
                    for each, right in zip(tried, wanted, strict=True)
                ]
        except Exception as error:  # noqa: BLE001  a compiler may fail in any way; the layers of transformers go on
            _LOG.warning("the layers of a %s could not be compiled: %s", type(self._model).__name__, error)
            return
        if max(errors) <= _LIMIT:
            self.ready = True
        else:
            _LOG.warning("compiled layers of a %s differ by %.1f%%", type(self._model).__name__, 100 * max(errors))

    def _change_layers(self) -> None:
        from transformers import AttentionInterface

        # The attention's kernel is compiled already, and its arguments are Python's.
        AttentionInterface.register(attention.NAME, torch.compiler.disable(attention.transformers_attention))  # type: ignore[no-untyped-call]
        for layer in self._model.layers:
            plain = layer.forward
            layer.forward = self._either(plain, torch.compile(plain, dynamic=True, backend=self._backend))

    def _either(self, plain: Callable[..., Any], fast: Callable[..., Any]) -> Callable[..., Any]:
        def forward(*arguments: Any, **named: Any) -> Any:
            compiled = self.ready or threading.current_thread() is self._thread
            return (fast if compiled else plain)(*arguments, **named)

        return forward


def _parts(lengths: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The first sequences in batches of three sizes, the largest of which leaves memory for a pass beside it."""
    most = max(1, sum(end <= _TRIED for end in accumulate(lengths)))
    return [lengths[:most], lengths[: max(1, most // 3)], lengths[:1]]
