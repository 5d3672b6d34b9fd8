"""What all vectors of a model have in common: their mean, estimated on a fixed sample of texts.

The vectors of many models lie around one direction, E5's at a mean cosine of 0.8 (anisotropy, Ethayarajh 2019). What
tells texts apart is how they differ from it.
"""

from __future__ import annotations

import numpy as np

from situate.embedders.types import Vectors
from situate.vectors import unit

#: Texts with nothing in common: what all their vectors share is the model's. Stored vectors depend on every word here.
SAMPLE = (
    "The committee approved the budget for the coming year after a long debate.",
    "Water boils at a lower temperature in the mountains because the air is thinner.",
    "Call the function with two arguments; it returns a list, or raises an error.",
    "She bought three kilos of pears at the market and a loaf of bread.",
    "The patient was given antibiotics for ten days and recovered without complications.",
    "Nobody knows who painted the small portrait that hangs in the hall.",
    "Trains to the airport leave every fifteen minutes from platform seven.",
    "In the second half the home team scored twice and won the match.",
    "The tenant has to return all keys on the last day of the month.",
    "Bats find their way in the dark by listening to their own echoes.",
    "Sales rose by four percent in spring, mostly in the northern region.",
    "How do I reset my password if I no longer have the old phone?",
    "The bridge was built of stone in 1742 and widened two hundred years later.",
    "Add the flour slowly, stir until smooth, and let the dough rest for an hour.",
    "A court may refuse evidence that was obtained without a warrant.",
    "Light from the nearest star takes more than four years to reach us.",
)


def centre_of(rows: Vectors) -> Vectors:
    """float32 ``[dimension]``: the mean of the sample's vectors, float32 ``[vectors, dimension]``, of length 1 each."""
    mean: Vectors = unit(rows).mean(0, dtype=np.float64).astype(np.float32)
    return mean
