"""The catalogue of 2020 comes in whole, repaired, and can be browsed, searched and resolved."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import hub as hub_module
import pytest
from catalogue_folder import test_data
from hub import Hub

from adapterhub.server.catalogue.importing import Imported, import_catalogue
from adapterhub.server.settings import Settings
from adapterhub.server.storage import open_storage
from adapterhub.spec.errors import ValidationFailedError


@pytest.fixture(scope="module")
def filled(stores, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """A hub with the real catalogue in it, shared by the tests that only read."""
    data = tmp_path_factory.mktemp("catalogue") / "hub"
    settings = Settings(data=data, log_level="warning", **stores.make(data))
    with hub_module.serve(settings) as running:
        running.imported = import_catalogue(running.storage, test_data("hub-catalogue"))
        yield running


def total(hub: Hub, **params: str) -> int:
    return int(hub.http.get("/v1/adapters", params=params).json()["total"])


def test_everything_comes_in_and_the_repairs_are_reported(filled: Hub) -> None:
    done: Imported = filled.imported  # type: ignore[attr-defined]
    assert (done.organisations, done.adapters, done.versions, done.defaults) == (8, 291, 501, 201)
    assert done.conflicts == []
    assert done.repairs["dependency"] == 6
    assert done.repairs["whole-number"] == done.repairs["task-id"] == done.repairs["versions-are-datasets"] == 1
    assert done.repairs["contact-incomplete"] == 152
    assert "| dependency | 6 |" in done.report
    counts = filled.http.get("/v1/counts").json()
    assert counts["adapters"] == 291
    assert (counts["tasks"], counts["datasets"], counts["languages"]) == (18, 43, 50)
    assert (counts["models"], counts["namespaces"]) == (13, 8)


def test_importing_again_changes_nothing(filled: Hub) -> None:
    before = filled.http.get("/v1/adapters", params={"limit": 100, "sort": "name"}).json()
    again = import_catalogue(filled.storage, test_data("hub-catalogue"))
    assert (again.adapters, again.versions, again.defaults, again.known) == (0, 0, 0, 501)
    assert filled.http.get("/v1/adapters", params={"limit": 100, "sort": "name"}).json() == before


def test_only_shelves_with_adapters_are_shown_and_their_counts_add_up(filled: Hub) -> None:
    whole = 0
    for kind in ("task", "language"):
        items = filled.http.get(f"/v1/explore/{kind}").json()["items"]
        for task in items:
            assert task["count"] == sum(subtask["count"] for subtask in task["subtasks"]) > 0
            whole += task["count"]
            for subtask in task["subtasks"]:
                page = filled.http.get(f"/v1/explore/{kind}/{task['id']}/{subtask['id']}").json()
                assert page["total"] == subtask["count"] >= len(page["items"]) > 0
    assert whole == 291


def test_every_adapter_page_opens_and_names_its_author(filled: Hub) -> None:
    names = {path.parent.name for path in (test_data("hub-catalogue") / "adapters").glob("*/*")}
    opened = 0
    for name in sorted(names):
        cursor = None
        while True:
            params = {"limit": 100} | ({"cursor": cursor} if cursor else {})
            page = filled.http.get(f"/v1/namespaces/@{name}", params=params).json()
            for item in page["items"]:
                answer = filled.http.get(item["page"])
                assert answer.status_code == 200
                assert "This hub does not hold the files" in answer.text
                opened += 1
            cursor = page["next"]
            if not cursor:
                break
    assert opened == 291


def test_what_the_record_says_is_on_the_page(filled: Hub) -> None:
    detail = filled.http.get("/v1/catalogue/@ukp/bert-base-uncased_sentiment_sst-2_houlsby").json()
    assert detail["authors"] == ["Clifton Poth"]
    assert detail["files"][0]["digest"] == "sha256:4ecc0b563332e81ab505308d083f27834a924e8f10d3dec3d090dba7a9c97524"
    assert detail["files"][0]["url"] is None
    assert detail["legacy_config_id"] == "b1017368d7a97b11"
    assert detail["status"] == "unavailable"
    assert "pfeiffer2020AdapterHub" in detail["citation"]
    assert ["GitHub", "https://github.com/calpt"] in detail["links"]
    shared = filled.http.get("/v1/catalogue/@ukp/bert-base-uncased_sts_stackexchange_pfeiffer").json()
    assert len(shared["versions"]) == 141 and shared["versions"][0]["version"] != shared["version"]
    page = filled.http.get("/@ukp/bert-base-uncased_sentiment_sst-2_houlsby").text
    assert "poth@" not in page


def test_search_knows_tasks_languages_and_models_by_name(filled: Hub) -> None:
    assert total(filled, q="swahili") == total(filled, task="sw") == 5
    old = json.loads((test_data("hub-catalogue") / "dist" / "v2" / "all.json").read_text())
    assert (
        total(filled, q="natural language inference")
        == total(filled, task="nli")
        == sum(item["task"] == "nli" for item in old)
    )
    assert total(filled, q="sst-2 roberta") >= 4
    assert total(filled, family="xlm-roberta") == 54
    assert total(filled, namespace="mlki") == 12
    first = filled.http.get("/v1/adapters", params={"q": "sst-2 bert-base-uncased"}).json()["items"][0]
    assert (first["task"], first["subtask"], first["model_name"]) == ("sentiment", "sst-2", "bert-base-uncased")
    assert "quechua" in filled.http.get("/v1/adapters", params={"q": "quecha"}).json()["suggestions"]


@pytest.mark.parametrize(
    ("text", "task", "subtask"),
    [
        ("sst", "sentiment", "sst-2"),
        ("stsb", "sts", "sts-b"),
        ("mnli", "nli", "multinli"),
        ("english", "en", "wiki"),
        ("Quechua", "qu", "wiki"),
        ("chinese wikipedia", "zh", "wiki"),
        ("natural language inference rte", "nli", "rte"),
        ("imdb roberta", "sentiment", "imdb"),
        ("arabic dialect", "dialect", "arabic"),
        ("machine translation romanian", "mt", "wmt16_en_ro"),
        ("part of speech", "pos", "ldc2012t13"),
        ("linguistic acceptability", "lingaccept", "cola"),
        ("qa/boolq", "qa", "boolq"),
        ("poem", "lm", "poem"),
    ],
)
def test_the_first_hit_is_what_people_mean(filled: Hub, text: str, task: str, subtask: str) -> None:
    first = filled.http.get("/v1/adapters", params={"q": text}).json()["items"][0]
    assert (first["task"], first["subtask"]) == (task, subtask)


@pytest.mark.parametrize(
    "model", ["bert-base-uncased", "bert-base-multilingual-cased", "roberta-base", "xlm-roberta-base"]
)
def test_old_identifiers_resolve_to_the_adapter_of_the_old_index(filled: Hub, model: str) -> None:
    index = json.loads((test_data("hub-catalogue") / "dist" / "v2" / "index" / f"{model}.json").read_text())
    asked = 0
    for task, subtasks in index.items():
        for subtask, configs in subtasks.items():
            namespace, name = configs["default"].removesuffix(".json").split("/")[-2:]
            answer = filled.http.get("/v1/resolve", params={"ref": f"{task}/{subtask}", "model": model}).json()
            assert (answer["namespace"], answer["name"]) == (namespace, name), (task, subtask, answer)
            asked += 1
    assert asked == sum(map(len, index.values())) > 10


@pytest.mark.parametrize(
    ("ref", "model"),
    [
        ("sst-2@nobody", "bert-base-uncased"),
        ("nli/multinli@ukp", "bert-base-multilingual-cased"),
        ("sentiment/sst-2/extra@ukp@evil", "bert-base-uncased"),
        ("@../../x/y", "bert-base-uncased"),
    ],
)
def test_what_the_old_hub_answered_with_a_wrong_author_is_refused(filled: Hub, ref: str, model: str) -> None:
    answer = filled.http.get("/v1/resolve", params={"ref": ref, "model": model})
    assert answer.status_code in (400, 404)
    assert answer.json()["code"] in ("InvalidReference", "NotFound")


def test_a_publisher_now_decides_between_two_meanings(filled: Hub) -> None:
    params = {"ref": "es@mlki", "model": "bert-base-multilingual-cased"}
    assert filled.http.get("/v1/resolve", params=params).json()["full_id"] == "mlki/es@mlki"


def test_a_broken_catalogue_is_refused_as_a_whole(tmp_path: Path) -> None:
    folder = tmp_path / "catalogue"
    for part in ("adapters/nirantk", "adapters/mlki", "architectures", "adapter_types", "tasks", "subtasks"):
        shutil.copytree(test_data("hub-catalogue") / part, folder / part)
    broken = next((folder / "adapters" / "mlki").iterdir())
    broken.write_text(broken.read_text().replace("using: pfeiffer", "using: unheard-of"))
    storage = open_storage(Settings(data=tmp_path / "hub"))
    with pytest.raises(ValidationFailedError, match="unheard-of"):
        import_catalogue(storage, folder)
    with storage.database.read() as connection:
        from adapterhub.server.catalogue.service import hub_counts

        assert hub_counts(connection).adapters == 0
    storage.close()


def test_the_command_imports_and_writes_the_report(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "adapterhub.server.cli",
        "import-catalogue",
        str(test_data("hub-catalogue")),
        "--data",
        str(tmp_path / "hub"),
    ]
    done = subprocess.run(
        [*command, "--report", str(tmp_path / "report.md"), "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["adapters"] == 291
    assert (tmp_path / "report.md").read_text().startswith("# Repairs")
    wrong = subprocess.run([*command[:4], str(tmp_path), *command[5:]], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2 and "no catalogue" in wrong.stderr and "Traceback" not in wrong.stderr


def test_the_shared_cases_get_the_same_answers_over_http(filled: Hub) -> None:
    """Every resolution case over the real catalogue that does not bring an alias table of its own."""
    from adapterhub.spec.reference import fold
    from adapterhub.spec.resolution import load_aliases

    words = {fold(word) for word in load_aliases()}
    codes = {"Ambiguous", "VersionNotFound", "NotFound", "ModelMismatch", "InvalidReference"}
    asked = 0
    for case in json.loads((test_data("resolution") / "cases.json").read_text()):
        if case["aliases"] or len(case["ref"]) > 4000:  # longer ones fit into no address
            continue
        params = {"ref": case["ref"], "model": case["model_name"], "type": case["type"]}
        if case["config"] is not None:
            params["config"] = case["config"] if isinstance(case["config"], str) else json.dumps(case["config"])
        answer = filled.http.get(
            "/v1/resolve", params={name: value for name, value in params.items() if value is not None}
        )
        found, expected = answer.json(), case["expect"]
        if "ok" in expected:
            right = expected["ok"]
            assert answer.status_code == 200, (case, found)
            assert fold(found["namespace"]) == fold(right["namespace"]), case
            assert fold(found["name"]) == fold(right["adapter"]), case
            answered = ("version", "tier", "decided_by")
            assert [found[name] for name in answered] == [right[name] for name in answered], case
        elif expected["error"] == "NotFound" and fold(case["ref"].split("@")[0].split(":")[0]) in words:
            continue  # the hub's own alias table knows this word
        else:
            assert expected["error"] in codes
            assert answer.status_code in (400, 404, 409, 414, 422), (case, found)
            assert found["code"] == expected["error"] or answer.status_code in (414, 422), (case, found)
            if expected["error"] in ("Ambiguous", "VersionNotFound"):  # every candidate
                listed, right = found["candidates"], expected["candidates"]
                assert sorted(map(fold, map(str, listed))) == sorted(map(fold, map(str, right))), case
            missing = set(map(fold, expected.get("must_suggest", ()))) - set(map(fold, found.get("suggestions", ())))
            assert not missing, (case, found)
        asked += 1
    assert asked > 400
