"""Markdown of strangers becomes HTML that cannot run, load or forge anything."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from adapterhub.server.web.markdown import MAX_CHARACTERS, external_url, render_markdown, strip_front_matter

ATTACKS = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "[a](javascript:alert(1))",
    "[a](JaVaScRiPt:alert(1))",
    "[a](java\nscript:alert(1))",
    "[a](&#106;avascript:alert(1))",
    "[a](data:text/html;base64,PHNjcmlwdD4=)",
    "[a](vbscript:x)",
    "[a](//evil.example/x)",
    "[a](/v1/tokens)",
    "<a href='javascript:alert(1)'>x</a>",
    "![a](javascript:alert(1))",
    '![a](x" onerror="alert(1))',
    "![a](https://evil.example/track.png)",
    "<https://evil.example/'onmouseover='alert(1)>",
    "<iframe src=https://evil.example></iframe>",
    "<style>body{display:none}</style>",
    "<form action=https://evil.example><input name=token></form>",
    "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)>",
    '```"><script>alert(1)</script>\n```',
    '```html" onmouseover="alert(1)\nx\n```',
    "<base href=https://evil.example>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "[a]: javascript:alert(1)\n\n[a]",
    "[a](https://ok.example 'x\" onclick=\"alert(1)')",
    "<!--><script>alert(1)</script>-->",
    "\x00<scr\x00ipt>alert(1)</scr\x00ipt>",
]
ALLOWED = {
    *("p", "br", "hr", "h3", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "em", "strong", "s", "a"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}


class Seen(HTMLParser):
    """Collects every tag with its attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def tags_of(html: str) -> list[tuple[str, dict[str, str | None]]]:
    seen = Seen()
    seen.feed(html)
    return seen.tags


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_attack_leaves_anything_but_harmless_tags_and_links(attack: str) -> None:
    for tag, attributes in tags_of(render_markdown(f"before\n\n{attack}\n\nafter")):
        assert tag in ALLOWED
        assert set(attributes) <= {"href", "title", "rel", "start", "class", "tabindex"}
        if tag == "a" and "href" in attributes:
            assert str(attributes["href"]).startswith(("https://", "http://", "mailto:", "#"))
            assert attributes["rel"] == "nofollow noopener ugc"


def test_ordinary_cards_keep_their_form() -> None:
    html = render_markdown(
        "# Title\n\n**bold** `code`\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```python\nx = 1 < 2\n```\n"
    )
    assert "<h3>Title</h3>" in html
    assert "<strong>bold</strong>" in html
    assert "<td>2</td>" in html
    assert '<code class="language-python">x = 1 &lt; 2' in html


def test_an_image_becomes_a_link_so_that_reading_a_page_asks_no_other_host() -> None:
    html = render_markdown("![curve](https://example.org/curve.png)")
    assert "<img" not in html
    assert 'href="https://example.org/curve.png"' in html


def test_front_matter_is_left_out_and_a_rule_further_down_stays() -> None:
    text = "---\nlicense: mit\n---\n# A\n\n| x |\n|---|\n| 1 |\n\n---\n\nend\n"
    assert strip_front_matter(text).startswith("# A")
    html = render_markdown(text)
    assert "license" not in html
    assert "<td>1</td>" in html and "<hr>" in html and "end" in html


def test_a_text_without_an_end_of_front_matter_is_shown_whole() -> None:
    assert "all of it" in render_markdown("---\nall of it")


def test_an_endless_card_is_cut_with_a_remark() -> None:
    html = render_markdown("word " * MAX_CHARACTERS)
    assert len(html) < MAX_CHARACTERS * 1.1
    assert "characters are shown" in html


def test_deep_nesting_does_no_harm() -> None:
    assert "x" in render_markdown("> " * 15 + "x")
    assert isinstance(render_markdown("> " * 3000 + "x"), str)
    assert render_markdown("[" * 5000 + "x" + "]" * 5000)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("https://example.org/a?b=c", True),
        ("HTTP://example.org", True),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("//example.org", False),
        ('https://example.org/"onclick="x', False),
        ("https:// example.org", False),
        ("", False),
        (None, False),
    ],
)
def test_only_plain_web_addresses_are_linked(url: str | None, kept: bool) -> None:
    assert (external_url(url) is not None) is kept
