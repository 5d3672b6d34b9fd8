"""What the steps of a query did, told to LangChain's callbacks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.callbacks import (
    AsyncCallbackManagerForRetrieverRun,
    CallbackManagerForRetrieverRun,
    adispatch_custom_event,
    dispatch_custom_event,
)

from situate.retrievers.types import Step

#: The name of the custom event.
STEPS_EVENT = "situate_steps"


def report_steps(steps: Sequence[Step], run_manager: CallbackManagerForRetrieverRun) -> None:
    """Send the steps as a custom event of the retriever's run."""
    if steps and run_manager.handlers:
        dispatch_custom_event(STEPS_EVENT, _data(steps), config={"callbacks": run_manager.get_child()})


async def areport_steps(steps: Sequence[Step], run_manager: AsyncCallbackManagerForRetrieverRun) -> None:
    """`report_steps` for asynchronous handlers."""
    if steps and run_manager.handlers:
        await adispatch_custom_event(STEPS_EVENT, _data(steps), config={"callbacks": run_manager.get_child()})


def _data(steps: Sequence[Step]) -> list[dict[str, Any]]:
    return [
        {"name": step.name, "seconds": step.seconds, "details": dict(step.details), "error": step.error}
        for step in steps
    ]
