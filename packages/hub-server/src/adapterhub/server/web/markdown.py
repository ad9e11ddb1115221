"""Markdown of strangers to HTML that is safe to show: CommonMark without raw HTML, then an allowlist sanitiser.

Two walls, each enough alone: the parser never emits a tag it did not make itself, and the sanitiser (nh3, an HTML5 parser
with an allowlist) drops everything not named here. Links open with `rel="nofollow noopener ugc"` and only to http, https and
mailto. Images are shown as links to their address, since the pages load nothing from other hosts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup, escape

#: Longest text rendered; the rest is cut with a remark. A card of a real adapter is a few kilobytes.
MAX_CHARACTERS = 200_000

_TAGS = {
    *(
        "p",
        "br",
        "hr",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "ul",
        "ol",
        "li",
        "blockquote",
        "pre",
        "code",
        "em",
        "strong",
        "s",
        "a",
    ),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
_ATTRIBUTES = {"a": {"href", "title"}, "ol": {"start"}, "code": {"class"}}
_SCHEMES = {"http", "https", "mailto"}
_CODE_CLASS = re.compile(r"language-[A-Za-z0-9+#_-]{1,32}")
#: YAML between two lines of three dashes at the very top, as model cards carry it.
_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(?:.*\r?\n)*?(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)")


def render_markdown(text: str, *, heading_offset: int = 2) -> Markup:
    """`text` as safe HTML.

    Args:
        text: CommonMark with tables and strikethrough; YAML front matter is left out.
        heading_offset: added to each heading level (at most h6), so that a card's title does not outrank the page's.
    """
    cut = len(text) > MAX_CHARACTERS
    body = strip_front_matter(text[:MAX_CHARACTERS])
    html = _parser().render(body, {"heading_offset": heading_offset})
    clean = nh3.clean(
        html,
        tags=_TAGS,
        attributes=_ATTRIBUTES,
        url_schemes=_SCHEMES,
        link_rel="nofollow noopener ugc",
        attribute_filter=_keep_attribute,
        strip_comments=True,
    )
    # What may be wider than the page scrolls by itself, and keyboards must be able to get there.
    clean = clean.replace("<pre>", '<pre tabindex="0">').replace("<table>", '<table tabindex="0">')
    if cut:
        clean += f"<p>Only the first {MAX_CHARACTERS:,} characters are shown.</p>"
    return Markup(clean)


def strip_front_matter(text: str) -> str:
    """`text` without the YAML block at its top; a horizontal rule further down stays."""
    return _FRONT_MATTER.sub("", text, count=1)


def external_url(url: str | None) -> str | None:
    """`url` if it is a plain http(s) address that may be linked to, else None. Keeps `javascript:` and its like out."""
    if not url:
        return None
    url = url.strip()
    if re.fullmatch(r"https?://[^\s\"'<>\\\x00-\x20]{3,2000}", url, flags=re.IGNORECASE):
        return url
    return None


def _keep_attribute(tag: str, attribute: str, value: str) -> str | None:
    if tag == "code" and attribute == "class":
        return value if _CODE_CLASS.fullmatch(value) else None
    if tag == "a" and attribute == "href":
        # Relative addresses would point into this hub's own pages; a card must not forge those.
        return value if re.match(r"(?i)(https?://|mailto:|#)", value) else None
    return value


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False, "linkify": False, "maxNesting": 20}).enable(
        ["table", "strikethrough"]
    )
    parser.add_render_rule("image", _image)
    parser.add_render_rule("heading_open", _heading)
    parser.add_render_rule("heading_close", _heading)
    return parser


def _image(renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    source = str(token.attrGet("src") or "")
    label = renderer.renderInlineAsText(token.children or [], options, env) or source
    if external_url(source) is None:
        return str(escape(label))
    return f'<a href="{escape(source)}">{escape(label)}</a>'


def _heading(renderer: Any, tokens: Sequence[Token], index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    level = min(6, int(token.tag[1:]) + int(env.get("heading_offset", 0)))
    return f"<h{level}>" if token.nesting == 1 else f"</h{level}>\n"
