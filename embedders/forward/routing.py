"""The routing of a mixture of experts as a part of its token vectors (MoEE).

Li and Zhou 2024, https://arxiv.org/abs/2410.10814: which experts a token is sent to says something else about it than
its hidden state does.
"""

from __future__ import annotations

from typing import Any

import torch

from situate.errors import ConventionError


def join_routing(model: Any, columns: int) -> None:
    """Change a model so that each token's vector is followed by its experts' probabilities, layer by layer.

    Args:
        model: A transformers model.
        columns: How many probabilities there are in all layers together.
    """

    def ask(module: Any, arguments: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return arguments, {**named, "output_router_logits": True}

    def join(module: Any, arguments: Any, out: Any) -> Any:
        hidden = out.last_hidden_state
        logits = getattr(out, "router_logits", None) or ()
        parts = [torch.softmax(each.float(), -1).view(*hidden.shape[:-1], -1).to(hidden.dtype) for each in logits]
        found = sum(part.shape[-1] for part in parts)
        if found != columns:
            raise ConventionError(
                f"routing_weight expects {columns} experts' weights by config.json, but transformers returns {found} "
                f"for a model of type {module.config.model_type!r}: it cannot be used with this model"
            )
        out.last_hidden_state = torch.cat([hidden, *parts], -1)
        return out

    model.register_forward_pre_hook(ask, with_kwargs=True)
    model.register_forward_hook(join)
