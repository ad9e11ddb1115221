"""Which values each page shows: from the catalogue to a rendered page, without HTTP. The static export uses it too."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import quote, urlencode

from sqlalchemy import Connection

from adapterhub.server.accounts.viewer import ANONYMOUS, Viewer
from adapterhub.server.catalogue import explore, service
from adapterhub.server.moderation.weights import not_finite
from adapterhub.server.search.question import SORTS, Question
from adapterhub.server.search.service import search
from adapterhub.server.web.markdown import render_markdown
from adapterhub.server.web.snippets import docs_samples, landing_snippets, snippets
from adapterhub.server.web.templating import Site, render

__all__ = [
    "adapter_page", "docs_page", "explore_kind_page", "explore_subtask_page", "explore_task_page", "feed", "landing_page",
    "namespace_page", "problem_page", "search_page",
]  # fmt: skip

#: an order that is not chosen stays out of the address
_SORTS = [("", "Best match"), *((name, title) for name, title in SORTS.items() if name != "relevance")]
#: more adapters than any list of a static export has
_WHOLE = 10_000_000
KIND_TITLES = {"task": "Tasks", "language": "Languages"}


def landing_page(connection: Connection, site: Site) -> str:
    """`/`"""
    popular = search(connection, Question(limit=6, sort="downloads"), facets=False).items
    newest = search(connection, Question(limit=6, sort="newest"), facets=False).items
    loadable = (item for item in (*popular, *newest) if item.status == "available" and not item.yanked)
    sample = next((item for item in loadable if item.kind == "task"), None)
    detail = service.adapter_detail(connection, sample.namespace, sample.name) if sample else None
    if not any(item.downloads for item in popular):
        popular = ()
    return render(
        "landing.html", site, path="/", twin="/v1/counts", counts=service.hub_counts(connection), popular=popular, newest=newest,
        popular_tasks=explore.popular_tasks(connection, 6), start_snippets=landing_snippets(site.url, detail),
    )  # fmt: skip


def explore_kind_page(connection: Connection, site: Site, kind: str, text: str = "") -> str:
    """`/explore/task` and `/explore/language`"""
    tasks = explore.explore_kind(connection, kind, text, subtasks=None if site.static else 6)
    return render(
        "explore_kind.html", site, path=f"/explore/{kind}", section=kind, twin=f"/v1/explore/{kind}{_query({'q': text})}", kind=kind, title=KIND_TITLES[kind],
        tasks=tasks, q=text,
    )  # fmt: skip


def explore_task_page(connection: Connection, site: Site, kind: str, task: str) -> str:
    """`/explore/task/sentiment`"""
    view = explore.explore_task(connection, kind, task)
    return render(
        "explore_task.html",
        site,
        path=f"/explore/{kind}/{quote(view.id)}",
        section=kind,
        twin=f"/v1/explore/{kind}/{quote(task)}",
        kind=kind,
        kind_title=KIND_TITLES[kind],
        task=view,
    )


def explore_subtask_page(
    connection: Connection,
    site: Site,
    kind: str,
    task: str,
    subtask: str,
    filters: Mapping[str, str],
    cursor: str = "",
    limit: int = 24,
) -> str:
    """`/explore/task/sentiment/sst-2`"""
    filters = {name: filters[name] for name in explore.CELL_FILTERS if filters.get(name)}
    task_view, view, page = explore.explore_adapters(
        connection, kind, task, subtask, filters, cursor=cursor, limit=_WHOLE if site.static else limit
    )
    path = f"/explore/{kind}/{quote(task_view.id)}/{quote(view.id)}"
    return render(
        "explore_subtask.html", site, path=path, section=kind, twin=f"/v1{path}{_query(filters)}", kind=kind, kind_title=KIND_TITLES[kind],
        task=task_view, subtask=view, page=page, action=site.root + path, filtered=bool(filters),
        url_for_cursor=_cursor_links(site.root + path, filters),
    )  # fmt: skip


def search_page(connection: Connection, site: Site, question: Question, viewer: Viewer = ANONYMOUS) -> str:
    """`/search`"""
    page = search(connection, question, viewer)
    given = {"q": question.text, **question.filters, "sort": question.sort}
    return render(
        "search.html", site, section="search", twin=f"/v1/adapters{_query(given)}", q=question.text, page=page, sorts=_SORTS,
        sort=question.sort, filtered=bool(question.filters), url_for_cursor=_cursor_links(f"{site.root}/search", given),
    )  # fmt: skip


def adapter_page(
    connection: Connection,
    site: Site,
    namespace: str,
    name: str,
    version: str | None = None,
    viewer: Viewer = ANONYMOUS,
) -> str:
    """`/@ns/name` and `/@ns/name/versions/1.0`"""
    detail = service.adapter_detail(connection, namespace, name, version, viewer)
    summary = detail.summary
    task_name, subtask_name = explore.task_names(connection, summary.kind, summary.task, summary.subtask)
    path = f"/@{quote(summary.namespace)}/{quote(summary.name)}" + (f"/versions/{quote(version)}" if version else "")
    default = next((view.version for view in detail.versions if view.is_default), detail.version.version)
    return render(
        "adapter.html", site, path=path, section=summary.kind, twin=f"/v1/catalogue{path}",
        detail=detail, kind_title=KIND_TITLES[summary.kind], task_name=task_name, subtask_name=subtask_name,
        snippets=snippets(detail, site.url, static=site.static), card=render_markdown(detail.card) if detail.card.strip() else "",
        newer=default if default != detail.version.version else "",
        not_finite=not_finite(connection, [file.digest for file in detail.files if file.digest]),
    )  # fmt: skip


def namespace_page(
    connection: Connection, site: Site, name: str, cursor: str = "", viewer: Viewer = ANONYMOUS, limit: int = 24
) -> str:
    """`/@ns`"""
    organisation, page = service.namespace_adapters(
        connection, name, viewer, cursor=cursor, limit=_WHOLE if site.static else limit
    )
    path = f"/@{quote(organisation.name)}"
    return render(
        "namespace.html", site, path=path, twin=f"/v1/namespaces/@{quote(organisation.name)}", namespace=organisation, page=page,
        url_for_cursor=_cursor_links(site.root + path, {}),
    )  # fmt: skip


def docs_page(site: Site) -> str:
    """`/docs`"""
    return render("docs.html", site, section="docs", **docs_samples(site.url))


def feed(connection: Connection, site: Site) -> str:
    """`/feed.atom`: the newest publishes, RFC 4287."""
    items = search(connection, Question(limit=50, sort="newest"), facets=False).items
    return render("feed.xml", site, items=items)


def problem_page(
    site: Site, status: int, heading: str, detail: str, hint: str = "", suggestions: Sequence[tuple[str, str]] = (),
    label: str = "Close to it",
) -> str:  # fmt: skip
    """The page of an error; `suggestions` are pairs of text and path, `label` says what they are."""
    return render(
        "problem.html", site, status=status, heading=heading, detail=detail, hint=hint, suggestions=suggestions, label=label
    )  # fmt: skip


def _query(values: Mapping[str, str]) -> str:
    kept = {name: value for name, value in values.items() if value}
    return f"?{urlencode(kept)}" if kept else ""


def _cursor_links(path: str, values: Mapping[str, str]) -> Callable[[str], str]:
    return lambda cursor: path + _query({**values, "cursor": cursor})
