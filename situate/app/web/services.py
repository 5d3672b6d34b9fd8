"""The parts of a chat application, and how they start and stop."""

from __future__ import annotations

import asyncio

from situate.app.web.access import Access, Rate
from situate.app.web.answers.answering import Answering
from situate.app.web.problems import told
from situate.app.web.settings import WebSettings
from situate.app.web.store.conversations import Conversations
from situate.app.web.store.ingest import Ingest
from situate.app.web.store.library import Library
from situate.app.web.store.turns import Slots
from situate.errors import SituateError
from situate.retrievers.retriever import Retriever
from situate.types import TextGenerator


class Services:
    """The parts of a chat application.

    Args:
        retriever: How collections are searched and stored.
        generator: The language model, if any.
        settings: Tenants, folder, limits.
    """

    def __init__(self, retriever: Retriever, generator: TextGenerator | None, settings: WebSettings) -> None:
        self.settings = settings
        self.generator = generator
        self.library = Library(retriever, settings)
        self.conversations = Conversations(settings.home / "conversations.sqlite")
        self.answering = Answering(self.library, self.conversations, generator, settings)
        self.ingest = Ingest(self.library)
        self.access = Access(settings)
        self.questions = Rate(settings.limits.questions_per_minute, "questions")
        limits = settings.limits
        self.uploads = Rate(limits.uploads_per_minute, "files")
        self.pages = Rate(limits.pages_per_minute, "pages")
        self.drawing = asyncio.Semaphore(2)
        self.requests = Rate(limits.requests_per_minute, "requests")
        self.answers = Slots(limits.answers, limits.answers_per_tenant, "answers")
        self.receiving = Slots(limits.uploads, limits.uploads_per_tenant, "uploads")
        self.following = Slots(limits.followers, limits.followers_per_tenant, "lists of documents")
        self._warming: asyncio.Task[None] | None = None
        self._why_not_ready = "the models are being loaded"

    async def start(self) -> None:
        """Open the store, take up files that were left, and load the models meanwhile.

        Raises:
            StoreLockedError: Another process serves the same store.
            SituateError: The store or the embedding model cannot be used.
        """
        await self.library.aopen()
        await self.ingest.start()
        self._warming = asyncio.create_task(self._warm_up())

    async def stop(self) -> None:
        """Finish the file that is being read, and close the store."""
        await self.ingest.stop()
        if self._warming is not None:
            await self._warming
        if (close := getattr(self.generator, "aclose", None)) is not None:
            await close()  # connections of this event loop
        await self.library.aclose()

    async def why_not_ready(self) -> str:
        """Why questions cannot be answered now; "" where they can."""
        if not self._why_not_ready:
            try:
                await asyncio.to_thread(self.library.check)
            except SituateError as error:
                return told(error)
        return self._why_not_ready

    async def _warm_up(self) -> None:
        try:
            await self.library.awarm_up()
            self._why_not_ready = ""
        except SituateError as error:
            self._why_not_ready = told(error)
