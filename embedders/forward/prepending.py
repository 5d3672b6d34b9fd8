"""Token prepending: the last token's state of one layer stands before the text in the next.

Fu et al. 2024, https://arxiv.org/abs/2412.11556. Under causal attention the words of a text do not see what follows.
A place in front of the text, a token of the prompt, is given the state of the prompt's last token behind some of the
first layers, so that the words see a summary of the whole.
"""

from __future__ import annotations

import threading
from typing import Any

import torch

from situate.embedders.forward.packing import Packing
from situate.embedders.models.prepending import Prepending
from situate.errors import ConventionError, InputError


def prepend(model: Any, prepending: Prepending) -> None:
    """Change a decoder so that it prepends, in packed and in padded passes. Several threads may be inside.

    Raises:
        ConventionError: It does not look back only, or does not hold its layers in one list.
        InputError: It has too few layers.
    """
    config = model.config.get_text_config()
    total = int(config.num_hidden_layers)
    if not any(getattr(module, "is_causal", False) for module in model.modules()):
        raise ConventionError(
            f"token prepending shows a text's first words what follows them, which a model of type "
            f"{config.model_type!r} sees already: leave prepend out"
        )
    if prepending.last >= total:
        raise InputError(
            f"prepend ends behind layer {prepending.last}, but the model runs {total}: the last one has none after it"
        )
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == total]
    if len(lists) != 1:
        raise ConventionError(f"a model of type {config.model_type!r} does not hold its layers in one list: no prepend")
    # Closures: a copy of the model shares them, where objects would be copied.
    now = threading.local()

    def find(module: Any, arguments: Any, named: dict[str, Any]) -> None:
        now.moved = _moved(named["input_ids"], named.get("packing"), named.get("attention_mask"), prepending)

    def move(module: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        if now.moved is None:
            return None
        places, lasts = now.moved
        hidden = arguments[0] if arguments else named["hidden_states"]
        flat = hidden.reshape(-1, hidden.shape[-1])
        changed = flat.index_copy(0, places, flat[lasts]).view_as(hidden)
        if arguments:
            return (changed, *arguments[1:]), named
        return arguments, {**named, "hidden_states": changed}

    model.register_forward_pre_hook(find, with_kwargs=True)
    for layer in list(lists[0])[prepending.first : prepending.last + 1]:
        layer.register_forward_pre_hook(move, with_kwargs=True)


def _moved(
    ids: torch.Tensor, packing: Packing | None, mask: torch.Tensor | None, prepending: Prepending
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Rows of the flattened tokens: the places of the sequences that have one, and their last tokens."""
    if packing is not None:
        starts, ends = packing.bounds[:-1].long(), packing.bounds[1:].long()
    else:
        assert mask is not None  # a padded pass has one
        rows = torch.arange(len(ids), device=ids.device) * ids.shape[1]
        starts = rows + mask.argmax(1)
        ends = starts + mask.sum(1)
    found = (ids.flatten() == prepending.token).nonzero()[:, 0]
    owners = torch.searchsorted(starts, found, right=True) - 1
    inside = (found >= starts[owners] + prepending.skipped) & (found < ends[owners] - 1)
    found, owners = found[inside], owners[inside]
    if not len(found):
        return None
    first = torch.full_like(starts, ids.numel()).scatter_reduce(0, owners, found, "amin")
    there = first < ids.numel()
    return first[there], ends[there] - 1
