"""Search finds by any name, ranks by fit and use, pages without gaps, and shows nobody what is private."""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any

import hub as hub_module
import pytest
from hub import Hub
from records import entry, fill
from sqlalchemy import select, update

from adapterhub.server.catalogue.listings import rank_of
from adapterhub.server.catalogue.tables import explore_cells, explore_pairs, facet_counts, listings
from adapterhub.server.search import candidates, service
from adapterhub.server.search.words import query_words, split_words
from adapterhub.server.settings import Settings
from adapterhub.server.storage.changes import project, rebuild_all
from adapterhub.server.storage.tables import adapters


def found(hub: Hub, **params: Any) -> list[str]:
    answer = hub.http.get("/v1/adapters", params=params)
    assert answer.status_code == 200, answer.text
    return [item["adapter_id"] for item in answer.json()["items"]]


@pytest.fixture(scope="module")
def shelf(stores: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with five adapters, shared by the tests that only ask."""
    data = tmp_path_factory.mktemp("search") / "hub"
    with hub_module.serve(Settings(data=data, log_level="warning", **stores.make(data))) as running:
        fill(running, _SHELF)
        yield running


_SHELF: list[Any] = [
    (entry(name="bert-sst2"), {"downloads": 3, "description": "Polarity of movie reviews."}),
    (entry(name="bert-imdb", subtask="imdb"), {"downloads": 900, "description": "Polarity of long reviews."}),
    (
        entry(
            name="roberta-mnli",
            task="nli",
            subtask="multinli",
            model="roberta-base",
            config="houlsby",
            using="houlsby",
            license="MIT",
        ),
        {"downloads": 50},
    ),
    (
        entry(name="xlmr-sw", task="sw", subtask="wiki", type="text_lang", model="xlm-roberta-base", language="sw"),
        {"downloads": 10},
    ),
    (
        entry(
            "other",
            name="gpt-lora",
            task="lm",
            subtask="poem",
            model="gpt2",
            config="lora",
            using="lora",
            license="Apache-2.0",
        ),
        {},
    ),
]


def test_words_of_names_tasks_models_methods_publishers_and_descriptions_find_an_adapter(shelf: Hub) -> None:
    assert found(shelf, q="imdb") == ["@demo/bert-imdb"]
    assert found(shelf, q="multinli") == ["@demo/roberta-mnli"]
    assert found(shelf, q="gpt2") == ["@other/gpt-lora"]
    assert found(shelf, q="houlsby") == ["@demo/roberta-mnli"]
    assert found(shelf, q="other") == ["@other/gpt-lora"]
    assert found(shelf, q="long reviews") == ["@demo/bert-imdb"]


@pytest.mark.parametrize(
    "text", ["sst-2", "sst2", "SST_2", "sst 2", "  sst-2  ", "sentiment/sst-2", "sentiment/sst-2@demo"]
)
def test_a_compound_is_found_however_it_is_written(shelf: Hub, text: str) -> None:
    assert found(shelf, q=text) == ["@demo/bert-sst2"]


def test_the_last_word_may_be_unfinished_and_a_blank_ends_it(shelf: Hub) -> None:
    assert found(shelf, q="rober") == found(shelf, q="robert") != []
    assert found(shelf, q="sent ") == []
    assert found(shelf, q="se") != []


def test_among_equal_matches_the_more_downloaded_comes_first(shelf: Hub) -> None:
    assert found(shelf, q="sentiment") == ["@demo/bert-imdb", "@demo/bert-sst2"]


def test_the_adapter_named_as_asked_comes_first_even_if_others_are_downloaded_more(hub: Hub) -> None:
    fill(
        hub,
        [
            (entry(name="reviews"), {"downloads": 0}),
            *((entry(name=f"reviews-{n}"), {"downloads": 10_000}) for n in range(5)),
        ],
    )
    assert found(hub, q="reviews")[0] == "@demo/reviews"


def test_filters_narrow_and_combine_with_words(shelf: Hub) -> None:
    assert found(shelf, task="sentiment", sort="name") == ["@demo/bert-imdb", "@demo/bert-sst2"]
    assert found(shelf, task="Sentiment", subtask="SST_2") == ["@demo/bert-sst2"]
    assert (
        found(shelf, kind="language")
        == found(shelf, language="sw")
        == found(shelf, type="text_lang")
        == ["@demo/xlmr-sw"]
    )
    assert found(shelf, method="lora") == found(shelf, namespace="@Other") == ["@other/gpt-lora"]
    assert found(shelf, license="MIT") == found(shelf, license="mit") == ["@demo/roberta-mnli"]
    assert found(shelf, type="text_lang", task="sentiment") == found(shelf, type="image_task") == []
    assert found(shelf, q="reviews", model="bert-base-uncased", subtask="imdb") == ["@demo/bert-imdb"]
    assert found(shelf, q="reviews", model="gpt2") == []


def test_a_licence_is_found_in_any_case_and_as_it_is_spelt_where_several_spell_it(hub: Hub) -> None:
    fill(hub, [entry(name=f"a{n}", license="MIT") for n in range(3)] + [entry(name="b", license="mit")])
    assert found(hub, license="mit") == ["@demo/b"]
    assert len(found(hub, license="MIT")) == len(found(hub, license="Mit")) == 3


def test_facets_count_what_each_choice_leaves(shelf: Hub) -> None:
    page = shelf.http.get("/v1/adapters", params={"q": "polarity"}).json()
    assert page["total"] == 2 and page["total_exact"]
    assert [(c["value"], c["count"]) for c in page["facets"]["subtask"]["choices"]] == [("imdb", 1), ("sst-2", 1)]
    whole = shelf.http.get("/v1/adapters").json()
    assert whole["total"] == 5
    assert {c["value"]: c["count"] for c in whole["facets"]["kind"]["choices"]} == {"task": 4, "language": 1}
    for facet, choices in ((f, v["choices"]) for f, v in whole["facets"].items()):
        for choice in choices:
            assert shelf.http.get("/v1/adapters", params={facet: choice["value"]}).json()["total"] == choice["count"]


@pytest.mark.parametrize("asked", [("b", "a", "c"), ("c", "b", "a")])
def test_choices_that_are_equally_common_stand_in_the_order_of_their_names(hub: Hub, asked: tuple[str, ...]) -> None:
    fill(hub, [entry(name=f"on-{model}", model=f"model-{model}") for model in asked])
    fill(hub, [entry(name="twice", model="model-c")])

    def models() -> list[str]:
        return [c["value"] for c in hub.http.get("/v1/adapters").json()["facets"]["model"]["choices"]]

    assert models() == ["model-c", "model-a", "model-b"]
    with hub.storage.database.write() as connection:  # what changes a row may move it within the table
        for value in asked:
            connection.execute(update(facet_counts).where(facet_counts.c.value == f"model-{value}").values(adapters=1))
    assert models() == ["model-a", "model-b", "model-c"]


@pytest.mark.parametrize("sort", ["relevance", "downloads", "newest", "name"])
@pytest.mark.parametrize("params", [{}, {"q": "adapter"}, {"task": "sentiment"}, {"model": "bert-base-uncased"}])
def test_pages_follow_one_another_without_gaps_or_repeats(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, sort: str, params: dict[str, str]
) -> None:
    monkeypatch.setattr(service, "WINDOW", 7)
    monkeypatch.setattr(service, "FEW", 5)
    monkeypatch.setattr(service, "WALK", 6)
    monkeypatch.setattr(candidates, "COUNT_LIMIT", 11)
    wanted = [(entry(name=f"adapter-{n:02}-x"), {"downloads": (n * 37) % 23}) for n in range(25)]
    others = [entry(name=f"adapt-{n}" if n % 2 else f"b-{n}", model="gpt2", task="nli", subtask="x") for n in range(8)]
    ids = fill(hub, [*others[:4], *wanted[:9], *others[4:6], *wanted[9:], *others[6:]])
    seen: list[str] = []
    cursor = None
    for _ in range(30):
        page = hub.http.get(
            "/v1/adapters", params={**params, "sort": sort, "limit": 3, **({"cursor": cursor} if cursor else {})}
        ).json()
        seen += [item["name"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert len(seen) == len(set(seen)) == (len(wanted) if params else len(ids))
    if sort == "name":
        assert seen == sorted(seen)
    if sort == "newest":
        mine = [name for name in seen if name.startswith("adapter-")]
        assert mine == sorted(mine, reverse=True)


@pytest.mark.parametrize("sort", ["relevance", "downloads", "newest", "name"])
def test_publishing_between_two_pages_neither_loses_nor_repeats_anything(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, sort: str
) -> None:
    monkeypatch.setattr(service, "WINDOW", 7)
    before = fill(hub, [(entry(name=f"adapter-{n:02}"), {"downloads": (n * 37) % 23}) for n in range(24)])
    seen: list[str] = []
    params = {"q": "adapter sst-2", "sort": sort, "limit": 3}
    for number in range(40):
        page = hub.http.get("/v1/adapters", params=params).json()
        seen += [item["name"] for item in page["items"]]
        if page["next"] is None:
            break
        params["cursor"] = page["next"]
        if number < 8:  # one that fits better than anything, and one that is as good as others
            fill(hub, [entry(name=f"adapter-sst-2-{number}"), (entry(name=f"adapter-x{number}"), {"downloads": 5})])
    assert len(seen) == len(set(seen))
    assert {f"adapter-{n:02}" for n in range(len(before))} <= set(seen)


def test_a_foreign_cursor_is_refused(shelf: Hub) -> None:
    for cursor in ("x", "bm9wZQ", "WyJuYW1lIiwxXQ", "=" * 500):
        answer = shelf.http.get("/v1/adapters", params={"cursor": cursor})
        assert (answer.status_code, answer.json()["code"]) == (400, "InvalidCursor")


def test_zero_hits_come_with_suggestions_that_have_hits(shelf: Hub) -> None:
    for wrong, right in (
        ("sentment", "sentiment"),
        ("multinly", "multinli"),
        ("robetra", "roberta"),
        ("sentimnet imdb", "sentiment imdb"),
    ):
        page = shelf.http.get("/v1/adapters", params={"q": wrong}).json()
        assert page["total"] == 0 and right in page["suggestions"]
        for text in page["suggestions"]:
            assert found(shelf, q=text)
    page = shelf.http.get("/v1/adapters", params={"q": "imdb houlsby"}).json()
    assert page["items"] == [] and {"imdb", "houlsby"} <= set(page["suggestions"])


@pytest.mark.parametrize(
    "text",
    [
        '"',
        "'",
        "*",
        "AND",
        "NOT x OR",
        "a AND (",
        "^x",
        "x:y",
        "{}",
        "-",
        "a" * 200,
        "%_",
        "\\",
        "'; DROP TABLE listings; --",
        "𝕤𝕤𝕥",
        "日本語",
        "\u0000",
        "ß",
        "sst* NEAR(x, 2)",
        ":* & !x | <->",
    ],
)
def test_any_text_is_a_question_and_never_an_error(shelf: Hub, text: str) -> None:
    for sort in ("relevance", "newest"):
        answer = shelf.http.get("/v1/adapters", params={"q": text, "sort": sort})
        assert answer.status_code == 200, answer.text


def test_accents_and_case_do_not_matter(hub: Hub) -> None:
    fill(
        hub,
        [(entry(name="maori", task="mi", subtask="wiki", type="text_lang"), {"description": "Māori Wikipedia, ÉTÉ"})],
    )
    assert found(hub, q="MAORI ete") == found(hub, q="māori été") == ["@demo/maori"]


def test_private_adapters_are_found_by_their_organisation_alone(hub: Hub) -> None:
    fill(
        hub, [entry(name="open-adapter"), (entry("lab", name="secret-adapter", task="secretsauce"), {"private": True})]
    )
    with hub.storage.database.read() as connection:
        lab = connection.execute(select(listings.c.organisation_id).where(listings.c.private)).scalar_one()
    inside = hub.client(hub.token(lab, scopes=("read",)))
    outside = hub.member("stranger")
    for params in (
        {"q": "secret"},
        {"namespace": "lab"},
        {"q": "adapter"},
        {},
        {"sort": "newest"},
        {"sort": "name", "q": "adapter"},
    ):
        names = [
            [item["name"] for item in client.get("/v1/adapters", params=params).json()["items"]]
            for client in (hub.http, outside, inside)
        ]
        assert "secret-adapter" not in names[0] + names[1]
        assert "secret-adapter" in names[2]
    page = hub.http.get("/v1/adapters", params={"q": "secretsauc"}).json()
    assert page["total"] == 0 and page["suggestions"] == []
    assert "secretsauce" not in hub.http.get("/v1/adapters").text
    assert hub.http.get("/v1/explore/task/secretsauce").status_code == 404


def test_counters_and_index_kept_up_to_date_equal_those_computed_anew(hub: Hub) -> None:
    ids = fill(
        hub,
        [
            (
                entry(
                    name=f"a{n}",
                    task=f"t{n % 3}",
                    subtask=f"s{n % 2}",
                    model=f"m{n % 4}",
                    config="lora" if n % 5 == 0 else "pfeiffer",
                ),
                {"downloads": n},
            )
            for n in range(30)
        ],
    )
    database = hub.storage.database
    with database.write() as connection:
        for number, adapter_id in enumerate(ids):
            values: dict[str, Any] = {"downloads": number * 9, "description": f"changed {number}"}
            if number % 4 == 0:
                values = {"listed": False}
            if number % 7 == 0:
                values |= {"private": True}
            connection.execute(update(adapters).where(adapters.c.id == adapter_id).values(**values))
        project(connection, ids)

    def state() -> list[Any]:
        with database.read() as connection:
            return [
                sorted(tuple(row) for row in connection.execute(select(table)))
                for table in (listings, explore_pairs, explore_cells, facet_counts)
            ]  # type: ignore[arg-type]

    kept = state()
    searches = [found(hub, q=text) for text in ("changed", "a1", "m2", "lora")]
    with database.write() as connection:
        rebuild_all(connection)
    assert state() == kept
    assert [found(hub, q=text) for text in ("changed", "a1", "m2", "lora")] == searches
    with database.write() as connection:
        connection.execute(update(adapters).values(listed=False))
        project(connection, ids)
    assert [rows for rows in state() if rows] == []


def test_a_projection_of_nothing_changes_nothing(hub: Hub) -> None:
    fill(hub, _SHELF)
    with hub.storage.database.write() as connection:
        before = connection.execute(select(facet_counts)).all()
        project(connection, [1, 2, 3, 4, 5])
        assert connection.execute(select(facet_counts)).all() == before


def test_rank_orders_by_doublings_of_downloads_then_by_age() -> None:
    assert rank_of(1000, 9) < rank_of(10, 2) < rank_of(0, 1) < rank_of(0, 2)
    assert rank_of(600, 2) < rank_of(1000, 9)
    assert 0 < rank_of(2**47, 1) < rank_of(0, 2**40) < 2**63


def test_languages_and_tasks_are_found_by_their_names_without_any_vocabulary(shelf: Hub) -> None:
    assert found(shelf, q="Swahili wikipedia") == ["@demo/xlmr-sw"]
    assert found(shelf, q="natural language inference") == ["@demo/roberta-mnli"]
    assert shelf.http.get("/v1/explore/language").json()["items"][0]["name"] == "Swahili"


def test_words_split_as_documented() -> None:
    assert split_words("BERT-base_uncased") == ["bert", "base", "uncased", "bertbaseuncased"]
    assert split_words("sst-2") == ["sst", "2", "sst2"]
    assert query_words("the sst-2 of SST") == ["sst", "2"]
    assert query_words("the") == ["the"]
    assert len(query_words(" ".join(string.ascii_lowercase))) == 12
