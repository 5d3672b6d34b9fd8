"""The mean of several layers' token vectors in place of the last one's.

WhiteningBERT (Huang et al. 2021, https://arxiv.org/abs/2104.01767): the last layer of a model that was trained to
predict words alone has turned towards that task; its mean with the first layer says more about the subject of a text.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch

from situate.errors import ConventionError, InputError


def mean_layers(model: Any, layers: Sequence[int]) -> None:
    """Change a model so that its token vectors are this mean, in packed and in padded passes. Several threads may be
    inside.

    The last layer counts with the norm that stands behind it, as its token vectors do otherwise.

    Args:
        model: A transformers model.
        layers: Counted from 1, or from -1 back.

    Raises:
        InputError: There is no such layer, or two of them are one.
        ConventionError: The model does not hold its layers in one list.
    """
    total = int(model.config.get_text_config().num_hidden_layers)
    if outside := [layer for layer in layers if abs(layer) > total]:
        raise InputError(f"mean_layers has {outside[0]}, but the model runs {total} layers: take 1 to {total}")
    places = [layer % (total + 1) if layer < 0 else layer for layer in layers]
    if len(set(places)) < len(places):
        raise InputError(f"mean_layers is {tuple(layers)}, which of {total} layers names one twice")
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == total]
    if len(lists) != 1:
        raise ConventionError(
            f"a model of type {model.config.model_type!r} does not hold its {total} layers in one list: no mean_layers"
        )
    # Closures: a copy of the model shares them, where objects would be copied.
    now = threading.local()

    def begin(module: Any, arguments: Any) -> None:
        now.found = []

    def keep(module: Any, arguments: Any, out: Any) -> None:
        now.found.append(out[0] if isinstance(out, tuple) else out)

    def finish(module: Any, arguments: Any, out: Any) -> Any:
        found = [*now.found, *([out.last_hidden_state] if total in places else [])]
        now.found = []
        out.last_hidden_state = torch.stack(found).mean(0)
        return out

    model.register_forward_pre_hook(begin)
    model.register_forward_hook(finish)
    for place in sorted(places):
        if place < total:
            lists[0][place - 1].register_forward_hook(keep)
