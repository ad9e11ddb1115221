"""Pages say what is published, link only to what is there, and run nothing they did not bring."""

from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import hub as hub_module
import pytest
from adapter_folder import write_folder
from hub import Hub, publish
from records import entry, fill

from adapterhub.server.settings import Settings
from adapterhub.server.web.snippets import model_lines
from adapterhub.server.web.static_pages import with_relative_links

HOSTILE = """---
license: x
---
# Card <script>alert(1)</script>

[link](javascript:alert(1)) <img src=x onerror=alert(1)> ![i](https://evil.example/i.png) [fine](https://example.org)
"""


class Page(HTMLParser):
    """A page taken apart: tags with attributes, and the text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attrs}))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


def publish_some(hub: Hub, tmp_path: Path) -> Hub:
    """Publish two versions of one adapter and one of another over HTTP; 1.0 of the first is yanked."""
    client = hub.member("demo", scopes=("read", "publish", "yank"))
    folder = write_folder(tmp_path / "one", readme=HOSTILE)
    more: dict[str, Any] = {
        "license": "MIT",
        "languages": ["en"],
        "metrics": [{"name": "accuracy", "value": 0.83125, "dataset": "movie snippets", "split": "test"}],
        "citation": "@misc{x,\n  title={</code><script>alert(2)</script>}\n}",
        "description": "Polarity of <b>snippets</b>",
        "authors": ["A. Author"],
    }
    for version in ("1.0", "1.1"):
        answer = publish(client, folder, "sentiment/movie-snippets@demo", version, **more)
        assert answer.status_code == 201, answer.text
    name = answer.json()["page"].rsplit("/", 1)[-1]
    assert (
        client.post(f"/v1/adapters/@demo/{name}/versions/1.0/yank", json={"reason": "leaked test split"}).status_code
        == 200
    )
    answer = publish(
        client, write_folder(tmp_path / "two", preset="houlsby", seed=1), "sentiment/movie-snippets@demo", "1.0"
    )
    assert answer.status_code == 201, answer.text
    return hub


@pytest.fixture(scope="module")
def published(stores: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with something on it, shared by the tests that only look."""
    place = tmp_path_factory.mktemp("pages")
    with hub_module.serve(Settings(data=place / "hub", log_level="warning", **stores.make(place))) as running:
        yield publish_some(running, place)


@pytest.fixture
def own_hub(hub: Hub, tmp_path: Path) -> Hub:
    """The same for a test that changes something."""
    return publish_some(hub, tmp_path)


def page(hub: Hub, path: str, status: int = 200) -> Page:
    answer = hub.http.get(path, headers={"accept": "text/html"})
    assert answer.status_code == status, (path, answer.status_code, answer.text[:300])
    assert answer.headers["content-type"].startswith("text/html")
    return Page(answer.text)


def adapter_path(hub: Hub, word: str = "pfeiffer") -> str:
    items = hub.http.get("/v1/adapters", params={"q": word}).json()["items"]
    return str(items[0]["page"])


def crawl(hub: Hub, start: str = "/") -> dict[str, Page]:
    """Every page that can be reached by links and filter forms, with its address."""
    waiting, pages = [start], {}
    while waiting:
        path = waiting.pop()
        if path in pages or not path.startswith("/") or re.match(r"/(static|v1|openapi|feed)", path):
            continue
        pages[path] = found = page(hub, path)
        for link in found.all("a"):
            target = urljoin(path, link["href"])
            parts = urlsplit(target)
            if not parts.netloc and parts.scheme == "":
                waiting.append(parts.path + (f"?{parts.query}" if parts.query else ""))
    return pages


def test_a_published_adapter_is_seen_on_all_three_explore_levels_and_its_page_at_once(published: Hub) -> None:
    assert "Sentiment" in page(published, "/explore/task").text
    assert "Movie snippets" in page(published, "/explore/task/sentiment").text
    third = page(published, "/explore/task/sentiment/movie-snippets")
    assert "2 adapters" in third.text
    path = adapter_path(published)
    assert path in [link["href"] for link in third.all("a")]
    assert "accuracy" in page(published, path).text


def test_the_sample_code_is_pinned_to_the_version_shown_and_stands_in_the_page_without_scripts(published: Hub) -> None:
    path = adapter_path(published)
    for version, address in (("1.1", path), ("1.0", f"{path}/versions/1.0")):
        text = page(published, address).text
        reference = f"{path[1:]}:{version}"
        assert f'load_adapter("{reference}")' in text
        assert f"adapterhub pull '{reference}'" in text
        assert f"{published.url}/v1/blobs/sha256:" in text
    labels = [label["for"] for label in page(published, path).all("label") if label["for"].startswith("code-")]
    assert labels == ["code-python", "code-cli", "code-curl"]


@pytest.mark.parametrize(
    ("head", "line"),
    [
        (None, 'AutoModel.from_pretrained("bert-base-uncased")'),
        (
            {"head_type": "static", "model_class": "BertForSequenceClassification", "num_labels": 3},
            'AutoModelForSequenceClassification.from_pretrained("bert-base-uncased", num_labels=3)',
        ),
        (
            {"head_type": "static", "model_class": "BertForQuestionAnswering", "num_labels": 2},
            'AutoModelForQuestionAnswering.from_pretrained("bert-base-uncased")',
        ),
        (
            {"head_type": "static", "model_class": "WhisperForConditionalGeneration"},
            'WhisperForConditionalGeneration.from_pretrained("bert-base-uncased")',
        ),
        ({"head_type": "tagging", "num_labels": 9}, 'ah.AutoAdapterModel.from_pretrained("bert-base-uncased")'),
        ({"head_type": "static", "model_class": "x; import os"}, 'AutoModel.from_pretrained("bert-base-uncased")'),
    ],
)
def test_the_sample_loads_the_model_in_a_class_that_takes_the_head(head: dict[str, Any] | None, line: str) -> None:
    assert f"model = {line}" in model_lines("bert-base-uncased", head)


def test_the_architecture_names_what_differs_from_the_preset(published: Hub) -> None:
    detail = published.http.get(f"/v1/catalogue{adapter_path(published)}").json()
    assert detail["changes"] == {"reduction_factor": 12}
    assert "preset pfeiffer with reduction_factor 12. One bottleneck" in page(published, adapter_path(published)).text


def test_the_start_page_shows_how_to_load_what_can_be_loaded(hub: Hub, tmp_path: Path) -> None:
    fill(hub, [dataclasses.replace(entry("old", name="gone"), status="unavailable")])
    publish(hub.member("lab"), write_folder(tmp_path / "new"), "nli/rte@lab", name="here").raise_for_status()
    assert 'load_adapter("@lab/here")' in page(hub, "/").text


def test_the_page_shows_tensors_files_digests_citation_and_provenance(published: Hub) -> None:
    path = adapter_path(published)
    shown = page(published, path)
    detail = published.http.get(f"/v1/catalogue{path}").json()
    for tensor in detail["manifest"]["tensors"]:
        assert tensor["name"] in shown.text
    for file in detail["files"]:
        assert file["digest"] in [code.get("title") for code in shown.all("code")]
        answer = published.http.get(file["url"])
        assert len(answer.content) == file["size"]
    assert "0.8313" in shown.text or "0.8312" in shown.text
    assert "@misc{x," in shown.text
    assert detail["digest"] in [code.get("title") for code in shown.all("code")]
    assert "@demo" in shown.text


def test_a_yanked_version_says_so_with_its_reason_and_the_default_is_the_other_one(published: Hub) -> None:
    path = adapter_path(published)
    assert "was yanked" not in page(published, path).text
    old = page(published, f"{path}/versions/1.0").text
    assert "Version 1.0 was yanked." in old and "leaked test split" in old and "The default is 1.1" in old


def test_nothing_a_publisher_writes_runs_or_forges_markup(published: Hub) -> None:
    for path, shown in crawl(published).items():
        for tag, attributes in shown.tags:
            assert tag not in ("iframe", "object", "embed", "base", "style"), path
            assert not any(name.startswith("on") or name == "style" for name in attributes), (path, tag, attributes)
            for name in ("href", "src", "action"):
                assert not attributes.get(name, "").strip().lower().startswith(("javascript:", "data:", "//")), (
                    path,
                    attributes,
                )
            if tag == "script":
                assert attributes["src"].startswith("/static/")
            if tag in ("img", "link") and "src" in attributes:
                assert attributes["src"].startswith("/static/")
    body = published.http.get(adapter_path(published)).text
    assert "<script>alert" not in body and "<b>snippets" not in body
    assert "&lt;script&gt;alert(1)" in body


def test_every_page_carries_the_strict_policy_and_loads_nothing_from_elsewhere(published: Hub) -> None:
    for path in ("/", "/explore/task", "/search?q=x", "/docs", adapter_path(published), "/@demo", "/@nobody/nothing"):
        answer = published.http.get(path, headers={"accept": "text/html"})
        policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["img-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert answer.headers["x-content-type-options"] == "nosniff"
        for tag, attributes in Page(answer.text).tags:
            if tag in ("script", "img", "link") and attributes.get("rel") != "alternate":
                assert urlsplit(attributes.get("src") or attributes.get("href", "")).netloc == "", (path, attributes)


def test_every_link_leads_to_a_page_and_every_choice_leaves_something(published: Hub) -> None:
    pages = crawl(published)
    assert len(pages) > 12
    third = pages["/explore/task/sentiment/movie-snippets"]
    options = re.findall(
        r'<select id="f-(\w+)".*?</select>', published.http.get("/explore/task/sentiment/movie-snippets").text, re.S
    )
    assert "using" in options
    names = {select["name"] for select in third.all("select")}
    for name in names:
        detail = published.http.get("/v1/explore/task/sentiment/movie-snippets").json()["facets"][name]
        for choice in detail["choices"]:
            filtered = published.http.get(
                "/v1/explore/task/sentiment/movie-snippets", params={name: choice["value"]}
            ).json()
            assert filtered["total"] == choice["count"] == len(filtered["items"]) > 0


def test_every_page_has_a_json_twin_that_answers(published: Hub) -> None:
    for path, shown in crawl(published).items():
        twins = [link["href"] for link in shown.all("link") if link.get("type") == "application/json"]
        if path == "/docs":
            continue
        assert len(twins) == 1, path
        assert published.http.get(twins[0]).headers["content-type"] == "application/json", path


def test_an_empty_hub_has_pages_too_and_links_to_no_empty_shelf(hub: Hub) -> None:
    assert "Nothing here yet" in page(hub, "/").text
    assert "No adapters of this kind" in page(hub, "/explore/language").text
    assert set(crawl(hub)) == {"/", "/explore/task", "/explore/language", "/search", "/docs"}
    page(hub, "/explore/task/sentiment", 404)


def test_unknown_addresses_get_a_page_in_a_browser_and_a_problem_in_a_program(published: Hub) -> None:
    shown = page(published, "/nothing/here", 404)
    assert "There is no page at /nothing/here" in shown.text
    assert published.http.get("/nothing/here").json()["code"] == "NotFound"
    path = adapter_path(published)
    wrong = page(published, path[:-3], 404)
    assert path in [link["href"] for link in wrong.all("a")]
    versions = page(published, f"{path}/versions/9", 404)
    assert f"{path}/versions/1.1" in [link["href"] for link in versions.all("a")]
    page(published, "/explore/colour", 422)
    page(published, "/search?cursor=x", 400)


def test_case_and_separators_in_addresses_do_not_matter(published: Hub) -> None:
    path = adapter_path(published)
    assert page(published, path.upper().replace("-", "_")).text == page(published, path).text
    assert "2 adapters" in page(published, "/explore/task/SENTIMENT/movie_snippets").text


def test_private_organisations_have_no_pages_for_others(hub: Hub) -> None:
    fill(hub, [(entry("lab", name="secret", task="hidden-task"), {"private": True})])
    for path in ("/@lab", "/@lab/secret", "/@lab/secret/versions/1", "/explore/task/hidden-task"):
        missing = page(hub, path, 404).text
        absent = page(hub, path.replace("lab", "nil").replace("hidden-task", "no-such-one"), 404).text
        assert missing.replace("lab", "nil").replace("hidden-task", "no-such-one") == absent
    assert "secret" not in "".join(shown.text for shown in crawl(hub).values())


def test_an_unchanged_page_answers_304_and_a_changed_one_does_not(own_hub: Hub) -> None:
    first = own_hub.http.get("/explore/task")
    tag = first.headers["etag"]
    assert own_hub.http.get("/explore/task", headers={"if-none-match": tag}).status_code == 304
    fill(own_hub, [entry(name="new", task="nli")])
    assert own_hub.http.get("/explore/task", headers={"if-none-match": tag}).status_code == 200


def test_pages_answer_head_and_tell_shared_caches_to_keep_out_of_what_a_token_shows(published: Hub) -> None:
    for path in ("/", "/search", adapter_path(published)):
        head = published.http.head(path)
        assert head.status_code == 200 and head.content == b""
    assert published.http.get("/search").headers["cache-control"] == "no-cache"
    assert published.operator().get("/search").headers["cache-control"].startswith("private")


def test_static_files_are_fingerprinted_compressed_and_only_those(published: Hub) -> None:
    for tag, attributes in page(published, "/").tags:
        address = attributes.get("src") if tag == "script" else attributes.get("href") if tag == "link" else None
        if address and address.startswith("/static/"):
            answer = published.http.get(address)
            assert answer.status_code == 200 and "immutable" in answer.headers["cache-control"]
            plain = published.http.get(address, headers={"accept-encoding": "identity"})
            assert plain.content == answer.content and "content-encoding" not in plain.headers
    for name in ("%2e%2e%2froutes.py", "templates", "nothing.css", "theme.js.map"):
        assert published.http.get(f"/static/{name}").status_code == 404


def test_the_first_view_is_light(published: Hub) -> None:
    """At most 60 kB on the wire for the start page with everything it loads."""
    answer = published.http.get("/")
    total = int(answer.headers["content-length"])
    for tag, attributes in Page(answer.text).tags:
        address = attributes.get("src") if tag == "script" else attributes.get("href") if tag == "link" else None
        if address and address.startswith("/static/"):
            total += int(published.http.get(address).headers["content-length"])
    assert total <= 60_000


def test_the_feed_is_atom_and_lists_the_newest_first(published: Hub) -> None:
    answer = published.http.get("/feed.atom")
    assert answer.headers["content-type"].startswith("application/atom+xml")
    root = ET.fromstring(answer.text)
    name = {"a": "http://www.w3.org/2005/Atom"}
    titles = [element.text or "" for element in root.findall("a:entry/a:title", name)]
    assert len(titles) == 2 and "houlsby" in titles[0]
    for link in root.findall("a:entry/a:link", name):
        assert published.http.get(link.attrib["href"]).status_code == 200


def test_pages_work_below_a_path_prefix(published: Hub) -> None:
    from adapterhub.server.web.pages import landing_page
    from adapterhub.server.web.templating import Site

    with published.storage.database.read() as connection:
        html = landing_page(connection, Site("Lab", "https://example.org/hub", "/hub"))
    for tag, attributes in Page(html).tags:
        for name in ("href", "src", "action"):
            value = attributes.get(name, "")
            assert not value.startswith("/") or value.startswith("/hub/"), (tag, value)


def test_links_become_relative_where_they_are_links() -> None:
    html = '<p>href="/x"</p><a class="y" href="/x?v=1#f"><img src="/static/a.svg?v=2"><a href="/"><a href="https://e.org/x">'
    assert with_relative_links(html, "/@a/b") == (
        '<p>href="/x"</p><a class="y" href="../../x/index.html?v=1#f"><img src="../../static/a.svg?v=2">'
        '<a href="../../index.html"><a href="https://e.org/x">'
    )


@pytest.mark.parametrize("url", ["", "https://example.org/adapters"])
def test_a_static_export_has_every_page_whole_with_its_twin_and_no_link_that_needs_a_server(
    own_hub: Hub, tmp_path: Path, url: str
) -> None:
    from adapterhub.server.operations.export import export_static

    many = [entry("many", name=f"adapter-{n}", task="nli", subtask="multinli") for n in range(40)]
    fill(own_hub, [*many, entry("many", name="index.json", task="nli", subtask="multinli")])
    folder = tmp_path / "export"
    export_static(own_hub.storage, dataclasses.replace(own_hub.settings, public_url=url), folder)
    pages = sorted(folder.rglob("index.html"))
    assert len(pages) > 40 * 2
    for path in pages:
        shown = Page(path.read_text())
        for tag, attributes in shown.tags:
            for name in ("href", "src", "action"):
                target = urlsplit(attributes.get(name, ""))
                if target.netloc or not target.path:
                    continue
                assert not target.path.startswith("/"), (path, tag, target.path)  # it may lie below any path
                if "@many/index.json" not in target.path:  # an adapter with a page's file name has no page
                    assert (path.parent / target.path).is_file(), (path, tag, target.path)
            assert tag != "form", path
        twins = [link["href"] for link in shown.all("link") if link.get("type") == "application/json"]
        assert twins or path.parent.name == "docs"
    third = folder / "explore/task/nli/multinli"
    assert Page((third / "index.html").read_text()).text.count("@many/") == 41
    assert len(json.loads((third / "index.json").read_text())["items"]) == 41
    sample = (folder / "@many/adapter-0/index.html").read_text()
    assert f"ADAPTERHUB_ENDPOINT={url or 'http://localhost'}\n" in sample


@pytest.mark.parametrize(
    "address",
    [
        "/explore/task/%00", "/explore/task/sentiment/%00", "/explore/task/sentiment/movie-snippets?model=%00", "/@%00", "/@demo/%00",
        "/@demo/x/versions/%00", "/search?q=%00", "/search?model=%00", "/search?namespace=%00&sort=newest", "/search?sort=%00",
        "/v1/adapters?model=%00", "/v1/adapters?q=a%00b&task=%00", "/v1/catalogue/@demo/%00", "/v1/namespaces/@%00", "/v1/explore/task/%00",
        "/v1/explore/task/sentiment/movie-snippets?using=%00", "/explore/task?q=%00", "/v1/adapters?cursor=%00", "/search?q=%ff%fe",
        "/explore/task/%ed%a0%80", "/v1/adapters?model=%ed%a0%80", "/@demo/%2e%2e", "/v1/adapters?limit=99999999999999999999",
        "/search?cursor=WyJkb3dubG9hZHMiLDldOTk5OTk5OTk5OTk5OTk5OTk5OTk5OV0", "/v1/adapters?sort=name&cursor=WyJuYW1lIiwiXHUwMDAwIiwxXQ", "/v1/adapters?sort=name&cursor=WyJuYW1lIiwiXHVkODAwIiwxXQ",
    ],
)  # fmt: skip
def test_no_address_makes_the_hub_fail(published: Hub, address: str) -> None:
    answer = published.http.get(address)
    assert answer.status_code < 500, answer.text
