"""What a person does with the hub, in a real Chromium."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.browser

CSS = "css selector"


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> Any:
    """What `condition` gives once it is true."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            value = condition()
        except Exception:  # noqa: BLE001 - the page may be changing under our hands
            value = None
        if value:
            return value
        time.sleep(0.03)
    return condition()


def text_of(driver: Any, selector: str = "main") -> str:
    return str(driver.find_element(CSS, selector).text)


def paths(hub: Any) -> list[str]:
    """One page of every kind."""
    return [
        "/", "/explore/task", "/explore/language", "/explore/task/sentiment", "/explore/task/sentiment/movie-snippets",
        "/explore/language/sw/wiki", hub.adapter, f"{hub.adapter}/versions/1.0", "/@demo", "/search", "/search?q=sentiment",
        "/search?q=sentmient", "/docs", "/device", "/nothing/here",
    ]  # fmt: skip


def complaints(driver: Any) -> list[str]:
    """What the browser complained about, a page that is missing on purpose aside."""
    return [
        line["message"]
        for line in driver.get_log("browser")
        if line["level"] == "SEVERE" and "/nothing/here" not in line["message"]
    ]


def test_from_the_start_page_through_three_levels_to_the_sample_code(desktop: Any, filled_hub: Any) -> None:
    desktop.get(filled_hub.url)
    desktop.find_element(CSS, ".door.task").click()
    wait_for(lambda: "/explore/task" in desktop.current_url)
    desktop.find_element("xpath", "//h2/a[contains(., 'Sentiment')]").click()
    wait_for(lambda: desktop.current_url.endswith("/explore/task/sentiment"))
    desktop.find_element("partial link text", "Movie snippets").click()
    wait_for(lambda: desktop.current_url.endswith("/movie-snippets"))
    desktop.find_element(CSS, "article.adapter a").click()
    wait_for(lambda: desktop.current_url.endswith(filled_hub.adapter))
    assert f'load_adapter("{filled_hub.adapter[1:]}:1.1")' in text_of(desktop)
    assert "83" in text_of(desktop)
    assert complaints(desktop) == []


def test_a_login_by_code_is_approved_without_any_script(start_browser: Callable[..., Any], filled_hub: Any) -> None:
    code = filled_hub.http.post("/v1/device/code", data={"client_id": "terminal"}).json()
    browser = start_browser(scripts=False)
    browser.get(f"{filled_hub.url}/device")
    browser.find_element(CSS, "#code").send_keys(code["user_code"].lower())
    browser.find_element(CSS, "form.stacked button").click()
    wait_for(lambda: "terminal" in text_of(browser))
    browser.find_element(CSS, "#token").send_keys(filled_hub.token(1, scopes=("read",)))
    browser.find_element(CSS, "button[value=approve]").click()
    wait_for(lambda: "approved" in text_of(browser))
    made = filled_hub.http.post("/v1/device/token", data={"device_code": code["device_code"]}).json()
    assert made["scope"] == "read"
    assert "?" not in browser.current_url and complaints(browser) == []


def test_tabs_change_by_mouse_and_by_keyboard(desktop: Any, filled_hub: Any) -> None:
    desktop.get(filled_hub.url + filled_hub.adapter)
    assert "from transformers import" in text_of(desktop, ".tabs")
    desktop.find_element(CSS, "label[for=code-curl]").click()
    assert "sha256sum -c" in text_of(desktop, ".tabs") and "from transformers" not in text_of(desktop, ".tabs")
    desktop.find_element(CSS, "#code-curl").send_keys("\ue012")  # arrow left
    assert "adapterhub pull" in text_of(desktop, ".tabs")


def test_a_click_copies_the_sample(desktop: Any, filled_hub: Any) -> None:
    desktop.execute_cdp_cmd(
        "Browser.grantPermissions",
        {"origin": filled_hub.url, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]},
    )
    desktop.get(filled_hub.url + filled_hub.adapter)
    button = wait_for(lambda: next(b for b in desktop.find_elements(CSS, "[data-copy]") if b.is_displayed()))
    button.click()
    wait_for(lambda: button.text == "Copied")
    copied = desktop.execute_async_script("navigator.clipboard.readText().then(arguments[0])")
    assert (
        copied == desktop.find_element(CSS, ".panel code").text + "\n"
        or copied.strip() == desktop.find_element(CSS, ".panel code").text
    )


def test_filtering_and_searching_happen_while_typing_and_stand_in_the_address(desktop: Any, filled_hub: Any) -> None:
    desktop.get(f"{filled_hub.url}/explore/task")
    desktop.execute_script("window.same = true")
    desktop.find_element(CSS, "#filter").send_keys("movie")
    assert wait_for(lambda: "1 task" in text_of(desktop, ".tally"))
    assert wait_for(lambda: "q=movie" in desktop.current_url)
    desktop.get(f"{filled_hub.url}/search")
    desktop.execute_script("window.same = true")
    desktop.find_element(CSS, "#q").send_keys("movie-snip")
    assert wait_for(lambda: "1 adapter" in text_of(desktop, ".tally"))
    assert wait_for(lambda: "q=movie-snip" in desktop.current_url)
    assert "task=" not in desktop.current_url and "sort=" not in desktop.current_url
    assert desktop.execute_script("return window.same"), "the page was loaded anew"
    desktop.back()


def test_a_filter_on_the_third_level_narrows_the_list_and_can_be_cleared(desktop: Any, filled_hub: Any) -> None:
    from selenium.webdriver.support.ui import Select

    desktop.get(f"{filled_hub.url}/search?kind=task")
    everything = text_of(desktop, ".tally")
    Select(desktop.find_element(CSS, "#f-using")).select_by_value("houlsby")
    assert wait_for(lambda: text_of(desktop, ".tally") != everything)
    assert wait_for(lambda: "using=houlsby" in desktop.current_url)
    badges = {badge.text for badge in desktop.find_elements(CSS, ".badge.strong")}
    assert badges == {"houlsby"}
    desktop.find_element("link text", "Clear all filters").click()
    wait_for(lambda: "using=" not in desktop.current_url)


def test_zero_hits_offer_a_correction_that_leads_to_hits(desktop: Any, filled_hub: Any) -> None:
    desktop.get(f"{filled_hub.url}/search?q=sentmient")
    desktop.find_element("link text", "sentiment").click()
    wait_for(lambda: "for “sentiment”" in text_of(desktop, ".tally"))
    assert desktop.find_elements(CSS, "article.adapter")


def test_the_theme_can_be_switched_and_is_remembered(start_browser: Callable[..., Any], filled_hub: Any) -> None:
    driver = start_browser()
    background = "return getComputedStyle(document.body).backgroundColor"
    driver.get(filled_hub.url)
    light = driver.execute_script(background)
    driver.find_element(CSS, "[data-theme-switch]").click()
    dark = driver.execute_script(background)
    assert dark != light
    driver.get(f"{filled_hub.url}/docs")
    assert driver.execute_script(background) == dark


def test_everything_works_without_scripts(start_browser: Callable[..., Any], filled_hub: Any) -> None:
    from selenium.webdriver.support.ui import Select

    driver = start_browser(scripts=False)
    driver.get(filled_hub.url + filled_hub.adapter)
    driver.find_element(CSS, "label[for=code-cli]").click()
    assert "adapterhub pull" in text_of(driver, ".tabs")
    assert not [
        button for button in driver.find_elements(CSS, "[data-copy], [data-theme-switch]") if button.is_displayed()
    ]
    driver.find_element(CSS, "summary").click()
    driver.get(f"{filled_hub.url}/search")
    driver.find_element(CSS, "#q").send_keys("movie\n")
    wait_for(lambda: "q=movie" in driver.current_url)
    assert driver.find_elements(CSS, "article.adapter")
    driver.get(f"{filled_hub.url}/search?q=demo")
    Select(driver.find_element(CSS, "#f-task")).select_by_value("nli")
    driver.find_element(CSS, "main .search button").click()
    wait_for(lambda: "task=nli" in driver.current_url)
    assert "1 adapter" in text_of(driver, ".tally")


def test_no_card_runs_code_and_no_page_asks_another_host(start_browser: Callable[..., Any], filled_hub: Any) -> None:
    driver = start_browser()
    asked = set()
    for path in paths(filled_hub):
        driver.get(filled_hub.url + path)
        assert driver.execute_script("return typeof window.attacked") == "undefined", path
        for line in driver.get_log("performance"):
            message = json.loads(line["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                address = urlsplit(message["params"]["request"]["url"])
                if address.scheme in ("http", "https", "ws", "wss"):  # the browser's own pages are chrome://
                    asked.add(address.netloc)
    assert asked == {urlsplit(filled_hub.url).netloc}
    assert complaints(driver) == []


@pytest.mark.parametrize("width", [320, 390, 820, 1280])
def test_no_page_is_wider_than_the_window(start_browser: Callable[..., Any], filled_hub: Any, width: int) -> None:
    driver = start_browser(width=width)
    for path in paths(filled_hub):
        driver.get(filled_hub.url + path)
        wider = driver.execute_script(
            "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wider <= 0, (path, wider)


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (390, True)])
def test_axe_finds_no_violation(
    start_browser: Callable[..., Any], filled_hub: Any, axe: str, width: int, dark: bool
) -> None:
    driver = start_browser(width=width, dark=dark)
    found = []
    for path in paths(filled_hub):
        driver.get(filled_hub.url + path)
        driver.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")
        driver.execute_script(axe)
        result = driver.execute_async_script("axe.run(document, {resultTypes: ['violations']}).then(arguments[0])")
        found += [
            (path, item["id"], [node["html"][:160] for node in item["nodes"]][:3]) for item in result["violations"]
        ]
    assert found == []
