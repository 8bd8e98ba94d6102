"""The page in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import ANSWER, Served

webdriver = pytest.importorskip("selenium.webdriver")
DRIVER, BROWSER = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (DRIVER and BROWSER), reason="needs Chromium and its driver"),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1100,800"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def wait_for(browser: Any, condition: str, seconds: float = 20) -> Any:
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, seconds).until(lambda driver: driver.execute_script(f"return {condition}"))


def ask(browser: Any, text: str) -> None:
    browser.find_element("id", "question").send_keys(text + "\n")


@pytest.fixture
def page(browser: Any, served: Served) -> Any:
    browser.get(served.url)
    browser.execute_script("localStorage.clear(); sessionStorage.clear()")
    browser.get_log("browser")
    browser.get(served.url)
    wait_for(browser, "document.getElementById('model').textContent === 'papagaio'")
    return browser


def test_a_question_is_answered_kept_and_rated(page: Any) -> None:
    ask(page, "Quem é <b>você</b>?")
    wait_for(page, "document.querySelector('.answer footer') !== null", 60)
    assert page.find_element("css selector", ".mine p").text.endswith("Quem é <b>você</b>?")
    page.find_element("css selector", "[data-rating=good]").click()
    wait_for(page, "document.querySelector('[data-rating=good]').getAttribute('aria-pressed') === 'true'")
    page.refresh()
    wait_for(page, "document.getElementById('model').textContent === 'papagaio'")
    page.find_element("css selector", "#session-list li button").click()
    assert page.find_elements("css selector", ".answer")
    assert page.get_log("browser") == []


def test_stop_ends_the_answer(page: Any) -> None:
    page.execute_script(
        "new MutationObserver(() => { const answer = document.querySelector('.answer .text');"
        " if (answer?.textContent.length > 20) document.getElementById('stop').click(); })"
        ".observe(document.getElementById('log'), { subtree: true, childList: true, characterData: true })"
    )
    ask(page, "Quem é você?")
    wait_for(page, "document.querySelector('.answer footer') !== null")
    said = page.find_element("css selector", ".answer .text").text
    assert 20 < len(said) < len(ANSWER) - 100


def test_a_thought_is_shown_folded_for_who_asks(browser: Any, thinking: Served) -> None:
    browser.get(thinking.url)
    browser.execute_script("localStorage.clear()")
    browser.get(thinking.url)
    wait_for(browser, "!document.getElementById('think').hidden")
    done = "document.querySelectorAll('.answer footer').length === "
    ask(browser, "Quanto é 3 mais 4?")
    wait_for(browser, f"{done}1", 60)
    assert not browser.find_elements("css selector", ".thought")
    browser.find_element("id", "think").click()
    assert browser.find_element("id", "think").get_attribute("aria-pressed") == "true"
    ask(browser, "Quanto é 2 mais 4?")
    wait_for(browser, f"{done}2", 60)
    (thought,) = browser.find_elements("css selector", ".thought")
    assert thought.get_attribute("open") is None
    content = thought.find_element("css selector", "p").get_attribute("textContent")
    assert content.startswith("Somo")
    assert content not in browser.find_elements("css selector", ".answer .text")[1].text
    browser.refresh()
    wait_for(browser, "document.getElementById('model').textContent === 'sums'")
    assert browser.find_element("id", "think").get_attribute("aria-pressed") == "true"
    browser.find_element("css selector", "#session-list li button").click()
    browser.find_element("css selector", ".thought summary").click()
    assert browser.find_element("css selector", ".thought p").text == content


def test_a_model_that_cannot_think_has_no_switch(page: Any) -> None:
    assert not page.find_element("id", "think").is_displayed()


def test_theme_and_language_stay(page: Any) -> None:
    before = page.execute_script("return document.documentElement.dataset.theme")
    page.find_element("id", "theme").click()
    page.find_element("id", "language").click()
    language = page.execute_script("return document.documentElement.lang")
    page.refresh()
    wait_for(page, "document.getElementById('model').textContent === 'papagaio'")
    assert page.execute_script("return document.documentElement.dataset.theme") != before
    assert page.execute_script("return document.documentElement.lang") == language


def test_a_narrow_window_shows_everything_in_its_width(page: Any) -> None:
    page.execute_script(
        "info.personas = ['educadora-paciente-e-formal']; info.can_think = true; translate();"
        " for (const hidden of document.querySelectorAll('header [hidden], #think')) hidden.hidden = false"
    )
    narrow = {"width": 360, "height": 700, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", narrow)
    try:
        wait_for(page, "innerWidth === 360")
        title = "document.querySelector('h1')"
        height = f"{title}.offsetHeight / parseFloat(getComputedStyle({title}).fontSize)"
        assert page.execute_script(f"return {height}") < 2, "the name is broken into lines"
        assert page.execute_script("return document.documentElement.scrollWidth") <= 360
        ends = page.execute_script(
            "return [...document.querySelectorAll('header button, header select, #form button, #form textarea')]"
            ".map((element) => element.getBoundingClientRect().right)"
        )
        assert max(ends) <= 360
        assert page.execute_script(
            "const box = document.getElementById('question'); return box.scrollHeight <= box.clientHeight"
        ), "the question's box scrolls before anything is written"
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_every_control_has_a_name(page: Any) -> None:
    nameless = page.execute_script(
        "return [...document.querySelectorAll('button, select, textarea, input')].filter((e) => "
        "!(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length)).map((e) => e.outerHTML)"
    )
    assert nameless == []


def test_the_page_asks_for_the_key(browser: Any, home: Path) -> None:
    server = Served(home, "--api-key", "chave")
    try:
        browser.get(server.url)
        wait_for(browser, "document.getElementById('key-dialog').open")
        browser.find_element("id", "key").send_keys("chave\n")
        wait_for(browser, "document.getElementById('model').textContent === 'papagaio'")
    finally:
        server.stop()


def test_sources_are_shown_with_the_cited_passage_marked(browser: Any, home: Path, tmp_path: Path) -> None:
    pytest.importorskip("luna_plugin_rag")
    (tmp_path / "regras.md").write_text(
        "# Regras 🌙\n\nA multa por atraso na devolução é de dois reais por dia.\n\nO prazo é de dez dias.\n",
        encoding="utf-8",
    )
    server = Served(home, "--docs", str(tmp_path), plugins="serve,rag")
    try:
        browser.get(server.url)
        wait_for(browser, "!document.getElementById('documents').hidden")
        ask(browser, "De quanto é a multa por atraso na devolução?")
        wait_for(browser, "document.querySelector('.answer footer') !== null")
        browser.find_element("css selector", "a.cite").click()
        marked = browser.find_element("css selector", ".source mark")
        assert marked.text == "A multa por atraso na devolução é de dois reais por dia."
    finally:
        server.stop()
