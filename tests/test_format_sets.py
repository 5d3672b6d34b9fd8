"""The judged sets that benchmarks/formats.py makes: the answers' spans are exact, and the questions are removed."""

from __future__ import annotations

from benchmarks._format_sets import code_set, dialogue_set, html_set, plain
from situate.chunkers import Document
from situate.retrievers.evaluation import EvaluationSet, Judgement

SOURCE = '''"""Shared words of the module stay."""

class Mill:
    """A mill."""

    def __init__(self):
        """Make a mill that stands still."""
        self.speed = 0
        self.stones = ["bed", "runner"]

    @property
    def turning(self):
        """Tell whether the ä stones turn.

        The wind decides.
        """
        faster = self.speed > 0
        return faster

    def grind(self, rye): "Grind some rye in one line."; return rye

    def stop(self):
        """Stop."""
        self.speed = 0
        return self


def test_grind(mill):
    """Check that the mill grinds."""
    assert mill.grind("rye")
    assert mill.turning


async def fetch(mill):
    """Bring all the flour home."""
    flour = await mill
    return flour


def again(mill):
    """Bring it twice, and twice again."""
    one = mill
    return one, one


def too(mill):
    """Bring it twice, and twice again."""
    two = mill
    return two, two
'''


def test_docstrings_are_the_questions_and_are_removed() -> None:
    data = code_set("code", {"mill.py": SOURCE})
    text = data.documents[0].text
    answers = {data.queries[j.query_id]: text[slice(*(j.spans or ())[0])] for j in data.judgements}
    assert answers == {
        "Tell whether the ä stones turn.": (
            "@property\n    def turning(self):\n        faster = self.speed > 0\n        return faster"
        ),
        "Bring all the flour home.": "async def fetch(mill):\n    flour = await mill\n    return flour",
    }
    gone = ('        """Tell whether the ä stones turn.\n\n        The wind decides.\n        """\n',)
    gone += ('    """Bring all the flour home."""\n',)
    rest = SOURCE
    for lines in gone:
        rest = rest.replace(lines, "")
    assert text == rest


PAGE = """<html><head><title>FAQ</title></head><body>
<nav><ul><li><p><a href="#why-rye" id="id1">Why <em>rye</em>?</a></p></li><li><a href="#mills">Mills</a></li></ul></nav>
<section id="mills"><h1>Mills</h1>
<section id="why-rye">
<span id="rye"></span><h2><a href="#id1">Why <em>rye</em>?</a><a class="headerlink" href="#why-rye">¶</a></h2>
<p>It grows on poor soil and stands the <b>cold</b> &amp; the wet of these hills.</p><script>var x = "no word";</script>
</section>
<section id="who"><h2>Who?<a class="headerlink" href="#who">¶</a></h2><p>See above.</p></section>
</section></body></html>"""
OTHER = '<html><body><p>Read <a href="../faq/mills.html#why-rye">Why rye?</a> first.</p></body></html>'
ANSWER = "It grows on poor soil and stands the cold & the wet of these hills."


def test_pages_hold_the_answers_without_the_questions_headings() -> None:
    html, markdown = html_set("html", {"faq/mills.html": PAGE, "tutorial/rye.html": OTHER})
    assert list(html.queries.values()) == ["Why rye?"]  # "Who?" is answered elsewhere
    page = html.documents[0].text
    words = [page[start:end] for start, end in html.judgements[0].spans or ()]
    assert words == ["It grows on poor soil and stands the ", "cold", " &amp; the wet of these hills."]
    (span,) = markdown.judgements[0].spans or ()
    assert markdown.documents[0].text[slice(*span)] == ANSWER
    for document in (*html.documents, *markdown.documents):
        assert "why-rye" not in document.text
        assert "Why rye?" not in plain(document.text)
    assert html.documents[1].text == OTHER.replace("why-rye", "entry-0").replace("Why rye?", "Question")
    assert page.replace("Question", "Why rye?").count("<h2>") == PAGE.count("<h2>")


def test_a_transcript_keeps_the_judged_excerpts() -> None:
    source = r"""[{'content': 'Who\'s there?\nTell.', 'role': 'user'}, {'content': "It's Bo.", 'role': 'assistant'}]

[{'content': 'Bye', 'role': 'user'}, {'content': 'Bye, B"""
    spans = tuple(
        (source.index(words), source.index(words) + len(words)) for words in (r"there?\nTell", "It's", "Bye, B")
    )
    data = EvaluationSet("set", [Document("chatlogs", source)], {"q": "?"}, [Judgement("q", "chatlogs", spans=spans)])
    made = dialogue_set(data)
    text = made.documents[0].text
    assert text == "user: Who's there?\nTell.\nassistant: It's Bo.\n\nuser: Bye\nassistant: Bye, B\n"
    assert [text[slice(*(j.spans or ())[0])] for j in made.judgements] == ["there?\nTell", "It's", "Bye, B"]
