"""Changes of a model between its files and its first pass: fewer layers, an adapter, longer positions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from situate.embedders.models.extension import Reach
from situate.embedders.models.prepending import Prepending
from situate.embedders.models.quantized import Weights
from situate.errors import ConventionError, InputError

if TYPE_CHECKING:
    from situate.embedders.models.adapters import Adapter


@dataclass(frozen=True)
class Variant:
    """How a model differs from its folder. By default it does not.

    Attributes:
        layers: Run only the first so many (2D Matryoshka, Li et al. 2024, https://arxiv.org/abs/2402.14776).
        mean_layers: Token vectors are the mean of those behind these layers; (): they are those behind the last.
        adapter: Merged into the weights.
        reach: How positions are stretched beyond those that the model was trained for.
        bidirectional: Whether a decoder's tokens see those behind them (LLM2Vec, BehnamGhader et al. 2024,
            https://arxiv.org/abs/2404.05961).
        prepending: How the last token's state stands before the text.
        routing: How many experts' weights of all layers follow a token's vector (MoEE); 0 for none.
        weights: How the weights of linear layers are quantised; None: not at all.
        stride: A number of tokens, and how far apart the positions of sequences of up to so many stand.
    """

    layers: int | None = None
    mean_layers: tuple[int, ...] = ()
    adapter: Adapter | None = None
    reach: Reach | None = None
    bidirectional: bool = False
    prepending: Prepending | None = None
    routing: int = 0
    weights: Weights | None = None
    stride: tuple[int, int] = (0, 1)

    @property
    def groups(self) -> bool:
        """Whether attention has to group distant tokens."""
        return self.reach is not None and self.reach.method == "self"

    def configure(self, config: Any) -> None:
        """Change a transformers configuration before the model is made from it.

        Raises:
            ConventionError: The model's positions cannot be stretched.
        """
        if self.reach is not None:
            self.reach.configure(config)
        if self.stride[0]:
            config.position_stride = self.stride  # which the passes look for
        if self.bidirectional:
            text = config.get_text_config()
            text.is_causal = False  # what transformers makes its masks by
            if hasattr(text, "use_bidirectional_attention"):
                text.use_bidirectional_attention = True

    def apply(self, model: Any) -> Any:
        """The changed model; ``model`` itself may be changed.

        Raises:
            ModelError: It cannot be changed like this.
            InputError: There are not so many layers.
        """
        if self.reach is not None:
            self.reach.apply(model)
        if self.adapter is not None and self.weights is not None:
            raise ConventionError(
                f"adapter {self.adapter.name!r} cannot be merged into weights of {self.weights}: leave weights out, or "
                "merge it into a model of its own first"
            )
        if self.adapter is not None:
            model = self.adapter.merged_into(model)
        if self.layers is not None:
            _keep_layers(model, self.layers)
        if self.bidirectional:
            _look_both_ways(model)
        return model


AS_IT_IS = Variant()


def _keep_layers(model: Any, count: int) -> None:
    """Drop all layers of a transformers model after the first ``count``.

    The modules after the last layer (the final norm of pre-norm models) stay: the model equals transformers' for a
    configuration with fewer layers, and sentence-transformers' after cutting the list of layers, which is how its
    documentation uses models trained with AdaptiveLayerLoss.
    """
    import torch

    config = model.config.get_text_config()
    total = int(config.num_hidden_layers)
    check_layers(count, total)
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == total]
    if len(lists) != 1:
        raise ConventionError(
            f"layers={count}: a model of type {model.config.model_type!r} does not hold its {total} layers in one list "
            "(ALBERT shares one among all, say), so it cannot be cut here: leave layers out"
        )
    del lists[0][count:]
    config.num_hidden_layers = count


def _look_both_ways(model: Any) -> None:
    """Let every token of a decoder see those behind it.

    Raises:
        ConventionError: Its tokens do already, or transformers' code of the model does not allow it.
    """
    import torch

    kind = model.config.model_type
    causal = [module for module in model.modules() if getattr(module, "is_causal", False)]
    for module in causal:
        module.is_causal = False
    ids = torch.tensor([[1, 2, 3, 4], [1, 2, 3, 4]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])  # what is padded has a mask, what is not may have none
    model.eval()
    with torch.inference_mode():
        before = model(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
        after = model(input_ids=ids + torch.tensor([0, 0, 1, 0]), attention_mask=mask).last_hidden_state[:, 0]
    if bool((before == after).all(dim=-1).any()):
        raise ConventionError(
            f"bidirectional=True: transformers' code of a model of type {kind!r} lets its tokens look back only "
            "(transformers 5 allows it for most decoders)"
        )


def check_layers(layers: int, total: int) -> None:
    """Refuse more layers than there are.

    Raises:
        InputError: There are not so many.
    """
    if layers > total:
        raise InputError(f"layers is {layers}, but the model has {total}: ask for {total} or fewer")
