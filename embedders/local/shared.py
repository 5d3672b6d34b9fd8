"""One loaded encoder for all the embedders of a process that would load the same one.

An application makes many small objects around one model: a LlamaIndex embedding, a LangChain one, an index, copies of
each that were pickled to a worker. If each loaded its own weights, memory would be paid several times, and they would
fight for one device instead of filling each other's batches. So the encoder is looked up by what it would be made of.
The references are weak: when the last embedder goes, so do the weights.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable
from typing import Any

from situate.embedders.local.encoder import Encoder

_ENCODERS: weakref.WeakValueDictionary[Hashable, Encoder] = weakref.WeakValueDictionary()
_LOCK = threading.Lock()


def shared_encoder(weights: Hashable, **settings: Any) -> Encoder:
    """The process's `Encoder` with these weights and settings, made now if there is none.

    Args:
        weights: What identifies the weights (folder and digest).
        settings: `Encoder`'s arguments.
    """
    key = (weights, *sorted(settings.items()))
    with _LOCK:
        encoder = _ENCODERS.get(key)
        if encoder is None:
            encoder = _ENCODERS[key] = Encoder(**settings)
        return encoder
