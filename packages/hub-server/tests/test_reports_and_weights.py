"""Reports by readers, and what the hub says about the numbers of the weights."""

from __future__ import annotations

import json
import math
import struct
import time
from pathlib import Path

import pytest
from adapter_folder import write_folder
from hub import Hub, digest_of, manifest_of, publish, upload_folder

from adapterhub.server.moderation.weights import check_missing, look_at
from adapterhub.server.operations.verification import verify

REPORTS = "/v1/adapters/@demo/mine/versions/1/reports"
FORM = "/@demo/mine/versions/1/report"


@pytest.fixture
def published(hub: Hub, folder: Path) -> Hub:
    publish(hub.member("demo"), folder, name="mine").raise_for_status()
    return hub


def test_anybody_reports_and_those_who_can_act_see_it(published: Hub) -> None:
    hub = published
    made = hub.http.post(REPORTS, json={"kind": "unsafe", "text": "It insults\x1b[31m people."})
    assert (made.status_code, made.json()["subject"]) == (201, "@demo/mine:1")
    token = hub.client(hub.token(1, scopes=("read",)))
    token.post(REPORTS, json={"kind": "broken", "text": "Does not load."}).raise_for_status()
    reviewer, operator = hub.client(hub.token(1, scopes=("review",))), hub.operator()
    stranger = hub.member("other", scopes=("review", "admin"))
    [first, second] = reviewer.get("/v1/reports").json()["items"]
    assert (first["kind"], first["text"], first["reporter"]) == ("unsafe", "It insults[31m people.", None)
    assert second["reporter"].startswith("demo")
    assert stranger.get("/v1/reports").json()["items"] == []
    assert hub.http.get("/v1/reports").status_code == 401
    assert token.get("/v1/reports").status_code == 403
    close = f"/v1/reports/{first['id']}/close"
    assert stranger.post(close, json={"outcome": "x"}).status_code == 403
    assert operator.post(close, json={"outcome": "quarantined"}).status_code == 200
    assert operator.post(close, json={"outcome": "again"}).status_code == 404
    assert [item["id"] for item in operator.get("/v1/reports").json()["items"]] == [second["id"]]
    assert operator.get("/v1/reports", params={"all": True}).json()["items"][0]["outcome"] == "quarantined"


def test_a_report_says_something_about_something_there_is(published: Hub) -> None:
    for body, status in (
        ({"kind": "unsafe", "text": "  "}, 422),
        ({"kind": "nonsense", "text": "x"}, 422),
        ({"kind": "unsafe", "text": "x" * 3000}, 422),
    ):
        assert published.http.post(REPORTS, json=body).status_code == status
    answer = published.http.post("/v1/adapters/@demo/mine/versions/9/reports", json={"kind": "spam", "text": "x"})
    assert answer.status_code == 404
    secret = published.member("secret", private=True)
    publish(
        secret, write_folder(Path(published.settings.data) / "s", seed=3), "a/b@secret", name="hush"
    ).raise_for_status()
    for name in ("@secret/hush", "@absent/hush"):
        answer = published.http.post(f"/v1/adapters/{name}/versions/1/reports", json={"kind": "spam", "text": "x"})
        assert answer.status_code == 404


def test_nobody_floods_the_people_who_read_reports(published: Hub) -> None:
    codes: list[int] = []
    while len(codes) < 50 and 429 not in codes:  # the bucket fills again while a slow machine asks
        codes.append(published.http.post(REPORTS, json={"kind": "spam", "text": "x"}).status_code)
    assert codes[:5] == [201] * 5 and codes[-1] == 429


def test_the_form_works_without_scripts_and_not_from_other_sites(published: Hub) -> None:
    http = published.http
    assert FORM in http.get("/@demo/mine").text
    page = http.get(FORM)
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    filled = {"kind": "rights", "text": "Trained on <b>my</b> data."}
    assert http.post(FORM, data=filled, headers={"Origin": "https://evil.example"}).status_code == 403
    assert http.post(FORM, data=filled, headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert "Thank you" in http.post(FORM, data=filled, headers={"Origin": published.url}).text
    [item] = published.operator().get("/v1/reports").json()["items"]
    assert item["text"] == "Trained on <b>my</b> data."


def weights(path: Path, tensors: dict[str, tuple[str, bytes]]) -> bytes:
    header, at = {}, 0
    width = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "I64": 8}
    for name, (dtype, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": [len(data) // width[dtype]], "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"".join(data for _, data in tensors.values())


def test_numbers_of_every_type_are_counted_and_measured(hub: Hub, tmp_path: Path) -> None:
    odd = [math.nan, 1.0, -math.inf, 0.5, math.inf, -2.0]
    half = struct.pack("<6e", *odd)
    brain = b"".join(struct.pack("<f", value)[2:] for value in odd)
    many = struct.pack("<20000f", *(3.0 if number % 2 else -3.0 for number in range(20000)))
    data = weights(
        tmp_path,
        {
            "half": ("F16", half),
            "brain": ("BF16", brain),
            "single": ("F32", struct.pack("<6f", *odd)),
            "double": ("F64", struct.pack("<6d", *odd)),
            "whole": ("I64", b"\xff" * 16),
            "many": ("F32", many),
            "none": ("F32", b""),
        },
    )
    digest = hub.storage.blobs.put(data)
    found = look_at(hub.storage.blobs, digest)
    assert (found["numbers"], found["not_finite"]) == (24 + 20000, 12)
    by_name = {tensor["name"]: tensor for tensor in found["tensors"]}
    assert "whole" not in by_name
    for name in ("half", "brain", "single", "double"):
        assert (by_name[name]["not_finite"], by_name[name]["largest"]) == (3, 2.0), name
        assert by_name[name]["rms"] == pytest.approx(math.sqrt((1 + 0.25 + 4) / 3))
    assert (by_name["many"]["largest"], by_name["many"]["rms"]) == (3.0, 3.0)
    assert by_name["none"] == {"name": "none", "not_finite": 0, "largest": 0.0, "rms": 0.0}


def test_what_was_published_is_looked_at_and_a_reader_is_warned(hub: Hub, tmp_path: Path) -> None:
    client = hub.member("demo")
    good, bad = write_folder(tmp_path / "good"), write_folder(tmp_path / "bad", seed=1)
    spoiled = bytearray((bad / "adapter.safetensors").read_bytes())
    spoiled[-4:] = struct.pack("<f", math.nan)
    publish(client, good, name="good").raise_for_status()
    manifest = manifest_of(bad, name="bad").to_json()  # our client would refuse; another one need not
    next(file for file in manifest["files"] if file["path"] == "adapter.safetensors")["digest"] = digest_of(
        bytes(spoiled)
    )
    (bad / "adapter.safetensors").write_bytes(spoiled)
    upload_folder(client, bad)
    client.post("/v1/publish", json={"manifest": manifest}).raise_for_status()
    for name, count in (("good", 0), ("bad", 1)):
        place = f"/v1/adapters/@demo/{name}/versions/1/weights"
        deadline = time.monotonic() + 60
        while not (told := hub.http.get(place).json())["complete"] and time.monotonic() < deadline:
            time.sleep(0.05)
        [file] = told["files"]
        assert (file["not_finite"], file["path"]) == (count, "adapter.safetensors")
        assert file["tensors"][0]["rms"] > 0
        assert ("NaN or infinite" in hub.http.get(f"/@demo/{name}").text) == bool(count)
        assert "Root mean square" in hub.http.get(f"/@demo/{name}/versions/1/weights").text
    assert check_missing(hub.storage) == 0
    assert verify(hub.storage, rebuild=True).problems == []


def test_weights_nobody_looked_at_are_caught_up_on(hub: Hub, folder: Path) -> None:
    hub.app.state.weights.add = lambda digests: None  # as if the process had died at once
    publish(hub.member("demo"), folder, name="mine").raise_for_status()
    assert check_missing(hub.storage) == 1
    told = hub.http.get("/v1/adapters/@demo/mine/versions/1/weights").json()
    assert told["complete"]
    assert told["files"][0]["digest"] == digest_of((folder / "adapter.safetensors").read_bytes())
