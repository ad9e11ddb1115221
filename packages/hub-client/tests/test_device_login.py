"""Login by device code against a hub that answers as told."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest
from loopback import Handler, LoopbackHub, Seen

from adapterhub.client.cli import main
from adapterhub.client.device import begin_login
from adapterhub.client.settings import Hub, Settings, load_settings
from adapterhub.spec.errors import AdapterHubError, AuthenticationError

CODE = {
    "device_code": "d" * 43,
    "user_code": "WDJB-MJHT",
    "verification_uri": "https://hub.example/device",
    "verification_uri_complete": "https://hub.example/device?user_code=WDJB-MJHT",
    "expires_in": 600,
    "interval": 2,
}
TOKEN = "ahub_" + "a" * 40


class Answers:
    """Answers to the two calls, in turn; the last one stays."""

    def __init__(self) -> None:
        self.code: dict[str, object] = dict(CODE)
        self.token: list[dict[str, object]] = [{"access_token": TOKEN, "token_type": "Bearer"}]
        self.forms: list[dict[str, list[str]]] = []
        self.headers: list[dict[str, str]] = []

    def __call__(self, handler: Handler, seen: Seen) -> bool:
        self.headers.append(seen.headers)
        if seen.path == "/v1/device/code":
            status, told, kind = 200, self.code, "application/json"
        elif seen.path == "/v1/device/token":
            told = self.token.pop(0) if len(self.token) > 1 else self.token[0]
            status, kind = (400, "application/problem+json") if "error" in told else (200, "application/json")
        else:
            return False
        form = handler.rfile.read(int(seen.headers["content-length"])).decode()
        self.forms.append(parse_qs(form))
        handler.answer(status, json.dumps(told).encode(), {"Content-Type": kind})
        return True


def waits(word: str) -> dict[str, object]:
    return {"code": "Authentication", "detail": f"It is {word}.", "error": word, "status": 400}


@pytest.fixture
def answers(tmp_path: Path) -> Iterator[tuple[LoopbackHub, Answers]]:
    server, told = LoopbackHub(tmp_path), Answers()
    server.faults.append(told)
    yield server, told
    server.close()


@pytest.fixture
def settings() -> Settings:
    return load_settings()


def test_the_token_comes_once_somebody_approved(answers: tuple[LoopbackHub, Answers], settings: Settings) -> None:
    server, told = answers
    told.token = [waits("authorization_pending"), waits("slow_down"), waits("authorization_pending"), *told.token]
    login = begin_login(settings, Hub("ah", server.url), ["publish", "read"])
    assert (login.user_code, login.page) == ("WDJB-MJHT", "https://hub.example/device")
    pauses: list[float] = []
    login._sleep = pauses.append
    assert login.wait() == TOKEN
    assert pauses == [2, 7, 7]  # slow_down adds five seconds for good
    assert told.forms[0]["scope"] == ["publish read"] and told.forms[0]["client_id"][0].startswith("adapterhub on ")
    assert {form["device_code"][0] for form in told.forms[1:]} == {"d" * 43}
    assert not any("authorization" in headers for headers in told.headers)
    assert "d" * 43 not in repr(login)


@pytest.mark.parametrize("word", ["access_denied", "expired_token", "invalid_grant"])
def test_a_refusal_ends_it(answers: tuple[LoopbackHub, Answers], settings: Settings, word: str) -> None:
    server, told = answers
    told.token = [waits(word)]
    with pytest.raises(AuthenticationError, match=word):
        begin_login(settings, Hub("ah", server.url)).wait()


def test_nobody_waits_for_ever(answers: tuple[LoopbackHub, Answers], settings: Settings) -> None:
    server, told = answers
    told.token = [waits("authorization_pending")]
    login = begin_login(settings, Hub("ah", server.url))
    moment = [0.0]

    def sleep(seconds: float) -> None:
        moment[0] += seconds

    login._sleep, login._clock = sleep, lambda: moment[0]
    with pytest.raises(AuthenticationError, match="in time"):
        login.wait()
    assert 590 <= moment[0] <= 600


@pytest.mark.parametrize(
    "change",
    [{"user_code": "\x1b[31mred"}, {"verification_uri": "javascript:x"}, {"device_code": ""}, {"user_code": "a b"}],
)
def test_what_is_no_code_is_not_shown(
    answers: tuple[LoopbackHub, Answers], settings: Settings, change: dict[str, str]
) -> None:
    server, told = answers
    told.code |= change
    with pytest.raises(AdapterHubError, match="something else"):
        begin_login(settings, Hub("ah", server.url))


def test_no_login_over_plain_http_nor_at_folders_nor_at_hubs_without_it(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(AuthenticationError, match="plain http"):
        begin_login(settings, Hub("far", "http://hub.example"))
    with pytest.raises(AuthenticationError, match="folder"):
        begin_login(settings, Hub("here", str(tmp_path)))
    server = LoopbackHub(tmp_path)
    try:
        with pytest.raises(AdapterHubError, match="no login by code"):
            begin_login(settings, Hub("ah", server.url))
    finally:
        server.close()


def test_the_command_says_what_to_do_and_keeps_the_token(
    answers: tuple[LoopbackHub, Answers],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: Settings,
) -> None:
    server, _ = answers
    monkeypatch.setenv("ADAPTERHUB_ENDPOINT", server.url)
    assert main(["login", "--device", "--scope", "read", "--no-check"]) == 0
    said = capsys.readouterr()
    assert "WDJB-MJHT" in said.err and "https://hub.example/device?user_code=WDJB-MJHT" in said.err
    assert said.out == "" and TOKEN not in said.err
    assert TOKEN in (settings.home / "tokens.json").read_text()
    assert main(["login", "--device", "--token", TOKEN]) == 2


def test_nothing_typed_at_the_prompt_begins_it_too(
    answers: tuple[LoopbackHub, Answers], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server, told = answers
    monkeypatch.setenv("ADAPTERHUB_ENDPOINT", server.url)
    monkeypatch.setattr("sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    typed = [" ", TOKEN]
    monkeypatch.setattr("getpass.getpass", lambda prompt: typed.pop(0))
    assert main(["login", "--no-check"]) == 0
    assert "WDJB-MJHT" in capsys.readouterr().err
    assert main(["login", "--no-check"]) == 0
    assert "WDJB-MJHT" not in capsys.readouterr().err and len(told.forms) == 2
