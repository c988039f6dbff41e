"""Text out of HTML: what a reader would see, with the addresses of links; scripts and styles left out."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_SILENT = {"script", "style", "noscript", "template", "svg", "head"}
_BLOCKS = {
    "p", "div", "section", "article", "header", "footer", "main", "nav", "aside", "br", "hr", "li", "ul", "ol",
    "table", "tr", "h1", "h2", "h3", "h4", "h5", "h6", "pre", "blockquote", "dt", "dd", "form", "figure",
}  # fmt: skip


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self._silent: list[str] = []
        self._links: list[str] = []
        self._title = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "title":
            self._title = True
        if tag in _SILENT:
            self._silent.append(tag)
        elif tag in _BLOCKS:
            self.parts.append("\n")
        elif tag in ("td", "th"):
            self.parts.append("\t")
        elif tag == "a":
            self._links.append(dict(attrs).get("href") or "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "title":
            self._title = False
            self.parts.append("\n")
        if tag in self._silent:
            del self._silent[self._silent.index(tag) :]
        elif tag in _BLOCKS:
            self.parts.append("\n")
        elif (
            tag == "a" and self._links and (href := self._links.pop()) and not href.startswith(("#", "java"))
        ):
            self.parts.append(f" [{href}]")

    def handle_data(self, data: str) -> None:
        if self._title or not self._silent:
            self.parts.append(re.sub(r"\s+", " ", data))


def text_of(html: str) -> str:
    """The visible text of a page, its title first."""
    reader = _Reader()
    reader.feed(html)
    reader.close()
    lines = (re.sub(r"[ ]+", " ", line).strip(" ") for line in "".join(reader.parts).split("\n"))
    return "\n".join(line for line in lines if line.strip()) + "\n"
