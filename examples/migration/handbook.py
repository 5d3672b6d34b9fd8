"""What both versions of an application read: the handbook, and the folder of the model that is on this machine."""

from __future__ import annotations

from pathlib import Path

from situate.embedders.models.resolve import DEFAULT_MODEL, resolve_model

FOLDER = Path(__file__).parent.parent / "documents"
#: The official classes find a model in a folder or on the hub, and not in the wheel of the extra `offline`.
MODEL = str(resolve_model(DEFAULT_MODEL).path)
