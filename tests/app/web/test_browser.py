"""The page of the chat application, in a real Chromium."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.app.web.conftest import LEAVE, TRAVEL, LanguageModel, Running, add, until
from tests.app.web.pdf import pdf

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Start = Callable[..., Running]
QUESTION = "How long is parental leave?"
#: Where screenshots for the docs are written, if anywhere.
SCREENSHOTS = os.environ.get("SITUATE_SCREENSHOTS")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, driven by Playwright, which keeps an event loop running: other modules' tests need none."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with api.sync_playwright() as playwright:
        options = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions"]
        with playwright.chromium.launch(executable_path=chromium, args=options) as launched:
            yield launched


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens the page of an application, and checks in the end that nothing foreign was requested or run."""
    pages: list[tuple[Page, str, list[str], list[str]]] = []

    def visited(running: Running, **options: Any) -> Page:
        page = browser.new_page(**options)
        page.set_default_timeout(60_000)
        faults: list[str] = []
        requests: list[str] = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        page.on("dialog", lambda dialog: faults.append(f"dialog {dialog.message}"))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(running.ready().url)
        pages.append((page, running.url, faults, requests))
        return page

    yield visited
    for page, url, faults, requests in pages:
        page.close()
        assert [one for one in requests if not one.startswith((url, f"blob:{url}"))] == []
        # A status that a test provokes is told by the browser as well.
        assert [fault for fault in faults if "Failed to load resource" not in fault] == []


def upload(page: Page, *files: tuple[str, bytes]) -> None:
    """Chooses files, and waits until each is indexed."""
    page.set_input_files(
        "#files", [{"name": name, "mimeType": "application/octet-stream", "buffer": data} for name, data in files]
    )
    for name, _ in files:
        page.locator("#documents li.ready", has=page.get_by_title(name, exact=True)).wait_for()


def send(page: Page, question: str) -> None:
    """Types a question and presses Enter."""
    box = page.get_by_label("Your question")
    box.fill(question)
    box.press("Enter")


def shot(page: Page, name: str) -> None:
    """A screenshot for the docs, where they are wanted."""
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / name)


def test_from_upload_to_the_cited_span_and_deletion(
    start: Start, visit: Callable[..., Page], model: LanguageModel
) -> None:
    model.pieces = ["Parents take twelve weeks, ", 20.0, "**paid in full** [1]."]
    page = visit(start(model), color_scheme="light", viewport={"width": 1280, "height": 760})
    upload(page, ("leave.md", LEAVE.encode()), ("travel.md", TRAVEL.encode()))
    assert page.locator("#documents li.ready .state").all_inner_texts() == ["2 passages", "2 passages"]
    send(page, QUESTION)
    answer = page.locator("li.assistant")
    answer.get_by_text("Parents take twelve weeks,").wait_for()
    # It is shown while it is written, and read aloud when it is complete.
    assert answer.get_attribute("aria-busy") == "true"
    assert page.get_by_role("button", name="Stop").is_visible()
    model.resume.set()
    cite = answer.get_by_role("button", name="Source 1: Leave")
    cite.wait_for()
    assert answer.locator("strong").inner_text() == "paid in full"
    until(lambda: answer.get_attribute("aria-busy") is None)
    assert answer.get_by_role("list", name="Sources").inner_text().split("\n") == ["1", "Leave \u203a Parental leave"]
    cite.click()
    source = page.get_by_role("complementary", name="Leave")
    source.wait_for()
    assert source.locator("mark").all_inner_texts() == ["Parents take twelve weeks of leave, paid in full."]
    assert "Sick leave" in source.inner_text()
    assert source.locator("mark").first.is_visible()
    assert cite.get_attribute("aria-expanded") == "true"
    shot(page, "chat.png")
    page.keyboard.press("Escape")
    assert source.is_hidden()
    assert cite.evaluate("element => element === document.activeElement"), "the focus goes back to the citation"
    # The conversation is kept, and a follow-up is searched for as a question of its own.
    model.pieces = ["The company [1]."]
    model.rewritten = ["Who pays for parental leave?"]
    send(page, "And who pays?")
    page.get_by_text("Searched for: Who pays for parental leave?").wait_for()
    page.reload()
    page.locator("#conversations").get_by_role("button", name=QUESTION, exact=True).click()
    page.get_by_text("The company").wait_for()
    assert page.locator("li.user").count() == 2
    page.get_by_role("button", name="Delete leave.md").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    until(lambda: page.locator("#documents li").count() == 1)
    page.reload()
    page.locator("#documents li.ready").wait_for()
    assert page.locator("#documents .name").all_inner_texts() == ["travel.md"]


def test_without_its_model_the_page_shows_the_best_passages(
    start: Start, visit: Callable[..., Page], model: LanguageModel
) -> None:
    model.status = 500
    page = visit(start(model))
    upload(page, ("leave.md", LEAVE.encode()))
    send(page, QUESTION)
    page.get_by_text("The language model did not answer. These are the best passages.").wait_for()
    page.get_by_text("Parents take twelve weeks of leave, paid in full.").wait_for()
    page.get_by_role("button", name="Source 1: Leave").first.wait_for()
    send(page, "Which volcano erupted in Iceland?")
    page.get_by_text("Nothing relevant was found in the documents.").wait_for()


def test_nothing_in_documents_questions_names_and_answers_runs(
    start: Start, visit: Callable[..., Page], model: LanguageModel
) -> None:
    attack = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
    name = "<img src=x onerror=window.hacked=1>.md"
    document = f"# Leave {attack}\n\nParents take twelve weeks of leave {attack} [x](javascript:window.hacked=1)."
    model.pieces = [attack, " Twelve weeks [1] [<b>2</b>] [99]. ", "[click](javascript:window.hacked=1)"]
    page = visit(start(model))
    upload(page, (name, document.encode()))
    send(page, f"How long is parental leave? {attack}")
    cite = page.locator("li.assistant .text .cite")
    cite.wait_for()
    assert cite.count() == 1
    assert attack in page.locator("li.assistant .text").inner_text()
    assert "[99]" in page.locator("li.assistant .text").inner_text()
    assert attack in page.locator("li.user").inner_text()
    cite.click()
    page.locator("#source-text mark").first.wait_for()
    assert attack in page.locator("#source-text").inner_text()
    page.reload()
    page.locator("#documents .name").wait_for()
    assert page.locator("#documents .name").inner_text() == name
    assert page.locator("img[src=x], main script, a").count() == page.locator("a.skip").count()
    assert page.evaluate("window.hacked") is None


def test_a_mistake_in_the_pages_scripts_could_not_make_elements_of_a_string(start: Start, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(start().url)
    assert "TrustedHTML" in page.evaluate("try { document.body.innerHTML = '<b>'; 'made' } catch (e) { e.message }")
    page.close()


HANDBOOK = (
    """# Handbook
This is how we work. Each chapter names the team that answers questions about it.
# Working hours
The week has thirty-eight hours. Between ten and three everyone can be reached,
at the desk or on the phone.""",
    """# Parental leave
Parents take twelve weeks of leave, paid in full. It may be split into two parts,
and begins before the second birthday of the child. Tell your team eight weeks
before it begins.
# Sick leave
A doctor's note is needed from the third day on. Send it to the people team.
# Travel
A hotel may cost up to 180 euros a night. Journeys of less than four hours are
made by train, in second class.""",
)


def test_a_citation_of_a_pdf_shows_its_page(start: Start, visit: Callable[..., Page], model: LanguageModel) -> None:
    model.pieces = ["Parents take **twelve weeks** of leave, paid in full [1]. It may be split into two parts [1]."]
    page = visit(start(model), color_scheme="light", viewport={"width": 1280, "height": 760})
    upload(page, ("handbook.pdf", pdf([page.splitlines() for page in HANDBOOK])))
    send(page, QUESTION)
    page.get_by_role("button", name="Source 1: Handbook").first.click()
    image = page.get_by_role("img", name=re.compile("^Page 2 of Handbook"))
    image.wait_for()
    until(lambda: image.evaluate("element => element.naturalWidth") > 1_000)
    assert page.locator("#source-place").inner_text() == "Parental leave, page 2"
    shot(page, "chat-pdf.png")


def test_the_page_is_used_by_keyboard_in_the_dark_and_on_a_phone(
    start: Start, visit: Callable[..., Page], model: LanguageModel
) -> None:
    model.pieces = ["Twelve weeks, ", "**paid in full** [1].", 60.0, " Both parents may take it [1]."]
    running = start(model)
    with running.client() as client:
        add(client, "leave.md", LEAVE)
    page = visit(running, color_scheme="dark", viewport={"width": 390, "height": 780})
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(22, 24, 27)"
    until(lambda: page.evaluate("document.activeElement.id") == "question")
    page.keyboard.type(QUESTION)
    page.keyboard.press("Enter")
    cite = page.get_by_role("button", name="Source 1: Leave").first
    cite.wait_for()
    cite.focus()
    model.resume.set()
    page.locator("[aria-busy]").wait_for(state="detached")  # the answer goes on, and the focus stays
    page.keyboard.press("Enter")
    page.locator("#source-text mark").first.wait_for()
    assert page.evaluate("document.activeElement.id") == "source-title"
    shot(page, "chat-dark.png")
    page.keyboard.press("Escape")
    # The documents lie behind a button.
    assert page.locator("#library").is_hidden()
    page.get_by_role("button", name="Documents").press("Enter")
    page.get_by_role("button", name="Delete leave.md").press("Enter")
    page.get_by_role("dialog", name="Delete leave.md?").wait_for()
    page.keyboard.press("Escape")
    assert page.locator("#documents .name").inner_text() == "leave.md"
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is wider than the screen"
    unnamed = "[...document.querySelectorAll('button, input, select, textarea')].filter(e => e.checkVisibility())"
    names = page.evaluate(f"{unnamed}.map(e => e.ariaLabel || e.innerText || e.labels?.[0]?.innerText || '')")
    assert all(names)


def test_a_key_opens_the_tenants_documents(start: Start, visit: Callable[..., Page]) -> None:
    keys = {"acme": "acme-key-of-many-letters", "globex": "globex-key-of-many-letters"}
    running = start(keys=keys)
    with running.client(keys["acme"]) as client:
        add(client, "leave.md", LEAVE)
    page = visit(running)
    page.get_by_role("dialog", name="Your API key").get_by_role("textbox").fill("wrong")
    page.keyboard.press("Enter")
    page.get_by_role("dialog", name="This key is not known here.").get_by_role("textbox").fill(keys["acme"])
    page.keyboard.press("Enter")
    page.locator("#documents li.ready").wait_for()
    assert page.locator("#documents .name").all_inner_texts() == ["leave.md"]
    assert keys["acme"] not in page.content()
    page.get_by_role("button", name="New collection").click()
    page.get_by_role("dialog").get_by_role("textbox").fill("travel")
    page.keyboard.press("Enter")
    until(lambda: page.get_by_label("Collection", exact=True).input_value() == "travel")
    page.get_by_text("None yet").wait_for()
    page.set_input_files("#files", [{"name": "a.exe", "mimeType": "x/y", "buffer": b"MZ"}])
    page.get_by_text("'a.exe' cannot be read").first.wait_for()
