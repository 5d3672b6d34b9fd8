"""PDF libraries on the same files: time, reading order, hyphens, running heads.

    python -m benchmarks.pdf_readers FOLDER

FOLDER holds the files of `PHRASES`, which come from the test data of pdf.js, pdfplumber, pdfminer.six and from Debian's
packages. pypdf and pdfplumber have to be installed beside situate. Times are seconds of one core.
"""

from __future__ import annotations

import argparse
import re
import time
from collections import Counter
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

#: Pages of a file that are read.
PAGES = 40
#: Per file a sentence that runs over the end of a line, as a reader reads it.
PHRASES = {
    "tracemonkey": "may decide to record or execute a native trace. At the start of execution, there are no",
    "federal-register": "is a visual alert on the airplane's primary flight displays (PFDs) that the airspeed",
    "naacl06-shinyama": "We use a clustering algorithm that uses a vector-space-model to obtain basic clusters. Then",
    "i1040nr": "you must attach a copy of the Form 1099 that shows the income and the amount of backup withholding",
    "freeculture": "is a balance between anarchy and control. A free culture, like a free market, is filled with",
    "chelsea": "Il est cependant essentiel que l'emplacement des futurs développements soit stratégiquement planifié",
    "dmca": "The others relate to section 1201(a), the provision dealing with the category of technological measures",
    "shared-mime-info": "Subclassing is about the format, rather than the category of the data (for example, there is",
    "pdkids": "they all took the shortest cut to the Wise Woman, and told her the man's story. After a long look in",
    "libtasn1": "whose titles are designated, as being those of Invariant Sections, in the notice that says that the",
}
_QUOTES = str.maketrans("\u2018\u2019\u00b4", "'''")


def main() -> None:
    """Prints a row per library."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pdf_readers", description=__doc__)
    parser.add_argument("folder", type=Path, help="the files")
    folder: Path = parser.parse_args().folder
    files = {name: excerpt(path) for name in PHRASES for path in sorted(folder.glob(f"*{name}*.pdf"))[:1]}
    pages = sum(count for _, count in files.values())
    print(f"{len(files)} files, {pages} pages")
    print("| library | s per 100 pages | sentences whole | words cut by hyphens | running lines left |")
    print("| --- | --- | --- | --- | --- |")
    for library, read in READERS.items():
        texts: dict[str, str] = {}
        started = time.process_time()
        for name, (data, _) in files.items():
            texts[name] = read(data)
        seconds = time.process_time() - started
        whole = sum(plain(PHRASES[name]) in plain(text) for name, text in texts.items())
        cut = sum(len(re.findall(r"[a-z][-\u00ad\u2010]\s*\n\s*[a-z]", text)) for text in texts.values())
        left = sum(running(text, files[name][1]) for name, text in texts.items())
        print(f"| {library} | {100 * seconds / pages:.1f} | {whole} of {len(files)} | {cut} | {left} |")


def excerpt(path: Path) -> tuple[bytes, int]:
    """The first pages of a file, and how many."""
    import pypdfium2

    source = pypdfium2.PdfDocument(path)
    count = min(PAGES, len(source))
    part = pypdfium2.PdfDocument.new()
    part.import_pages(source, list(range(count)))
    out = BytesIO()
    part.save(out)
    return out.getvalue(), count


def plain(text: str) -> str:
    """The words with single spaces and straight quotes."""
    return " ".join(text.translate(_QUOTES).split())


def running(text: str, pages: int) -> int:
    """Lines that come on at least every third page, numbers aside."""
    lines = Counter(re.sub(r"\d+", "#", line.strip()) for line in text.splitlines() if not line.startswith("|"))
    return sum(count for line, count in lines.items() if count >= max(3, pages / 3) and len(line) > 3)


def by_situate(data: bytes) -> str:
    from situate.chunkers.readers.pdf.reading import read_pdf

    return read_pdf(data).text


def by_pypdf(data: bytes) -> str:
    from pypdf import PdfReader

    return "\n\n".join(page.extract_text() for page in PdfReader(BytesIO(data)).pages)


def by_pdfplumber(data: bytes) -> str:
    import pdfplumber

    with pdfplumber.open(BytesIO(data)) as document:
        return "\n\n".join(page.extract_text() or "" for page in document.pages)


def by_pypdfium2(data: bytes) -> str:
    import pypdfium2

    return "\n\n".join(page.get_textpage().get_text_range() for page in pypdfium2.PdfDocument(data))


READERS: dict[str, Callable[[bytes], str]] = {
    "situate, on pypdfium2": by_situate,
    "pypdfium2": by_pypdfium2,
    "pypdf": by_pypdf,
    "pdfplumber": by_pdfplumber,
}


if __name__ == "__main__":
    main()
