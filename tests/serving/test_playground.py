"""The playground in a real browser, over a real service: it shows what the API says, and asks what it is told to."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api", reason="the playground is tested in a browser: pip install playwright")
pytest.importorskip("fastapi", reason="the playground is served by fastapi")

from playground_setup import (
    CHROMIUM,
    KEY,
    MAX_LEN,
    VOICE,
    Running,
    copied,
    done,
    opened,
    run,
    serving,
    texts,
    until,
)
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

FOLDER = Path(__file__).parents[2] / "xlab" / "serving" / "playground"
COLOURS = ["body).color", "body).backgroundColor", "querySelector('.muted')).color"]
DRAW = {"model": "speaker", "temperature": 0.8, "top_p": 0.95, "n": 1, "max_tokens": 64}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("there is no chromium on PATH: the playground is tested in a browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with serving() as running:
        yield running


@pytest.fixture
def page(browser: Browser, service: Running) -> Iterator[Page]:
    with opened(browser, service.address) as page:
        yield page


def fill(page: Page, **fields: Any) -> None:
    for name, value in fields.items():
        page.fill(f"[name={name}]:enabled", str(value))


def sent(page: Page, act: Any) -> dict[str, Any]:
    """The request for texts that ``act`` leads to."""
    with page.expect_request("**/v1/completions") as request:
        act()
    body: dict[str, Any] = json.loads(request.value.post_data or "")
    return body


def test_it_types_streams_and_shows_the_apis_text_for_the_same_seed(page: Page, service: Running) -> None:
    page.keyboard.type("Say: ")  # the prompt has the focus
    fill(page, temperature=1.3, top_p=1, max_tokens=140)  # many halves of characters
    run(page)
    seed = int(page.input_value("[name=seed]"))
    request = {**DRAW, "prompt": "Say: ", "temperature": 1.3, "top_p": 1, "max_tokens": 140, "seed": seed}
    (choice,) = service.complete(request)
    assert texts(page) == [choice["text"]]
    assert "�" in choice["text"]
    assert page.text_content(".page") == "Say: " + choice["text"]
    assert page.locator(".token").count() == 140
    assert copied(page, "text", of=".sample") == "Say: " + choice["text"]


def test_several_texts_stand_side_by_side(page: Page, service: Running) -> None:
    fill(page, n=3, max_tokens=20)
    run(page, "Say: ")
    seed = int(page.input_value("[name=seed]"))
    choices = service.complete({**DRAW, "prompt": "Say: ", "n": 3, "max_tokens": 20, "seed": seed})
    assert texts(page) == [choice["text"] for choice in choices]
    tops = page.locator(".sample").evaluate_all("all => all.map((one) => one.getBoundingClientRect().top)")
    assert tops[0] == tops[1]


def test_markup_that_a_model_writes_is_text(page: Page, service: Running) -> None:
    page.check("[value=greedy]", force=True)
    fill(page, max_tokens=100)
    run(page, "")
    (choice,) = service.complete({"prompt": "", "temperature": 0, "max_tokens": 100})
    assert texts(page) == [choice["text"]]
    assert VOICE.encode()[1:90].decode(errors="ignore") in choice["text"]  # the voice says it from its second byte on
    assert page.locator(".page *:not(span)").count() == 0

    fill(page, stop="</x>\n'owned'<")  # its tokens come one by one, and are held back until it is whole
    run(page)
    (choice,) = service.complete({"prompt": "", "temperature": 0, "max_tokens": 100, "stop": ["'owned'<"]})
    assert texts(page) == [choice["text"]]
    assert choice["text"].endswith("document.title = ")
    assert "came to its end" in page.inner_text(".sample footer")


@pytest.mark.parametrize("by_key", [True, False])
def test_stop_keeps_what_came_and_frees_the_row(page: Page, service: Running, by_key: bool) -> None:
    fill(page, seed=5)
    service.speaker.hold(after=7)
    try:
        page.fill("#prompt", "Say: ")
        page.keyboard.press("Control+Enter")
        expect(page.locator(".token")).to_have_count(7)
        assert service.rows_used() == 1
        # a live region that told of every token would never be silent
        assert page.text_content("#status") == "Writing …"
        shown = texts(page)
        if by_key:
            page.keyboard.press("Escape")
        else:
            page.click("#halt")
        expect(page.locator("#status")).to_have_text("Stopped.")
    finally:
        service.speaker.release()
    until(lambda: service.rows_used() == 0, "the row is still held")
    assert texts(page) == shown
    (choice,) = service.complete({**DRAW, "prompt": "Say: ", "seed": 5})
    assert choice["text"].startswith(shown[0])
    assert "stopped" in (page.text_content(".sample footer") or "")
    assert page.is_disabled("#halt")
    assert page.evaluate("document.activeElement !== document.body")  # the focus is not lost with the button


def test_a_token_tells_its_probability_and_what_else_was_likely(page: Page, service: Running) -> None:
    fill(page, logprobs=3, max_tokens=12)
    run(page, "Say: ")
    seed = int(page.input_value("[name=seed]"))
    asked = {**DRAW, "prompt": "Say: ", "max_tokens": 12, "seed": seed, "logprobs": 3, "return_token_ids": True}
    scores = service.complete(asked)[0]["logprobs"]
    for place, show in [(4, "hover"), (6, "focus")]:
        getattr(page.locator(".token").nth(place), show)()
        page.wait_for_selector(".token.shown >> nth=0")
        sheet = page.locator("#alternatives")
        assert sheet.is_visible()
        ids = sheet.locator("button").evaluate_all("all => all.map((one) => Number(one.dataset.id))")
        assert ids == scores["top_token_ids"][place]
        shares = [100 * math.exp(value) for value in scores["top_token_logprobs"][place]]
        shown = [float(re.sub("[^0-9.]", "", share)) for share in sheet.locator("li .share").all_text_contents()]
        assert shown == pytest.approx(shares, abs=0.5)
        own = float(re.sub("[^0-9.]", "", sheet.locator(".chosen .share").inner_text()))
        assert own == pytest.approx(100 * math.exp(scores["token_logprobs"][place]), abs=0.5)
    page.uncheck("[name=inspect]")
    assert sheet.is_hidden()
    assert page.locator(".token[role], .token[tabindex]").count() == 0


@pytest.mark.parametrize("place", [0, 7])
def test_a_branch_goes_on_from_token_ids(page: Page, service: Running, place: int) -> None:
    """Without new tokenization, and its text is what all its tokens say together."""
    fill(page, seed=3, max_tokens=12, temperature=1.2, top_k=5, stop="qqq", n=2)
    page.uncheck("[name=new_seed]")
    run(page, "Say: ")
    asked = {**DRAW, "prompt": "Say: ", "temperature": 1.2, "top_k": 5, "max_tokens": 12, "seed": 3, "stop": ["qqq"]}
    before = service.complete({**asked, "n": 2, "return_token_ids": True})[1]
    page.locator(".sample >> nth=1").locator(".token").nth(place).click()
    button = page.locator("#alternatives button:enabled").first
    chosen = int(button.get_attribute("data-id") or "")
    body = sent(page, button.click)
    done(page)

    kept = [*before["token_ids"][:place], chosen]
    prompt = [*before["prompt_token_ids"], *kept]
    assert body == {**asked, "prompt": prompt, "n": 1, "stream": True, "return_token_ids": True, "logprobs": 5}
    (choice,) = service.complete({**asked, "prompt": prompt})
    shown = texts(page)
    assert shown[:2] == [one["text"] for one in service.complete({**asked, "n": 2})]  # what was there stays
    assert shown[2] == service.tokenizer.decode(kept) + choice["text"]
    assert json.loads(copied(page, "curl", of=".sample >> nth=2 >> ").split("-d '")[1].rstrip("'\n")) == {
        **asked,
        "prompt": prompt,
    }


def test_no_branch_begins_with_a_special_token(page: Page, service: Running) -> None:
    """The end is likely here, and is shown as such; a text that went on from it would be none."""
    eos = service.tokenizer.eos_id
    page.check("[value=greedy]", force=True)
    fill(page, max_tokens=2, min_tokens=2)
    service.speaker.noise[:, eos] += 25
    try:
        run(page, "xx")
    finally:
        service.speaker.noise[:, eos] -= 25
    page.locator(".token").nth(1).click()
    end = page.locator(f"#alternatives [data-id='{eos}']")
    expect(end).to_contain_text("<|eos|>")
    expect(end).to_be_disabled()
    assert page.locator("#alternatives button:enabled").count() == 3  # of five: the end cannot, nor what stands there


def test_an_alternative_may_complete_a_character(page: Page, service: Running) -> None:
    """The two bytes of ë: the second is exchanged, and the new character shows."""
    page.check("[value=greedy]", force=True)
    fill(page, max_tokens=3)
    run(page, "xx")  # the voice is at its third byte
    assert texts(page)[0].startswith("ë")
    page.locator(".token").nth(1).focus()
    half = page.locator("#alternatives button:enabled").first
    chosen = int(half.get_attribute("data-id") or "")
    half.click()
    expect(page.locator(".sample")).to_have_count(2)
    done(page)
    first = service.tokenizer.encode("ë")[0]
    assert texts(page)[1].startswith(service.tokenizer.decode([first, chosen]))


def test_beams_show_their_scores(page: Page, service: Running) -> None:
    page.check("[value=beams]", force=True)
    fill(page, beam_width=3, beam_texts=3, length_penalty=0.5, max_tokens=8)
    body = sent(page, lambda: run(page, "Say: "))
    asked = {"model": "speaker", "prompt": "Say: ", "beam_width": 3, "length_penalty": 0.5, "n": 3, "max_tokens": 8}
    assert body == {**asked, "return_token_ids": True}
    choices = service.complete(asked)
    assert texts(page) == [choice["text"] for choice in choices]
    scores = [float(score.split()[1].replace("−", "-")) for score in page.locator(".score").all_text_contents()]
    assert scores == pytest.approx([choice["score"] for choice in choices], abs=0.006)


def test_every_setting_reaches_the_service_and_the_link(browser: Browser, page: Page, service: Running) -> None:
    numbers = {"temperature": 0.9, "top_k": 50, "top_p": 0.9, "min_p": 0.001, "typical_p": 0.99, "n": 2, "seed": 11}
    numbers |= {"max_tokens": 9, "min_tokens": 2, "repetition_penalty": 1.1, "presence_penalty": 0.2}
    numbers |= {"frequency_penalty": -0.1, "no_repeat_ngram": 8}
    fill(page, **numbers, stop="END\\n\n\\\\n", logprobs=2)
    page.check("[name=truncate_prompt]")
    assert not page.is_checked("[name=new_seed]")  # who types a seed means it
    body = sent(page, lambda: run(page, "Grüße & <b> #1 🦉\n"))
    expected = {**numbers, "model": "speaker", "prompt": "Grüße & <b> #1 🦉\n", "stop": ["END\n", "\\n"]}
    expected |= {"truncate_prompt": True, "stream": True, "return_token_ids": True, "logprobs": 2}
    assert body == expected
    fragment = copied(page, "link").partition("#")[2]
    with opened(browser, service.address, fragment) as other:
        assert sent(other, lambda: run(other)) == body
        assert texts(other) == texts(page)


@pytest.mark.parametrize("way", ["draw", "beams"])
def test_copied_code_runs_and_gives_the_text_that_is_shown(browser: Browser, way: str) -> None:
    with serving(key=KEY) as service, opened(browser, service.address, needs_key=True) as page:
        page.fill("#ask-key", KEY)
        page.keyboard.press("Enter")
        page.wait_for_selector("#facts dl", state="attached")
        page.check(f"[value={way}]", force=True)
        fill(page, max_tokens=20, **({"min_p": 0.001, "stop": "qq'q"} if way == "draw" else {"beam_width": 4}))
        run(page, 'It\'s "$HOME" \\ `!!`\n')
        curl, python = copied(page, "curl"), copied(page, "python")
        assert KEY not in curl + python + page.url
        outside = {"PATH": os.environ["PATH"], "XLAB_API_KEY": KEY, "PYTHONWARNINGS": "ignore", "PYTHONUTF8": "1"}
        answer = subprocess.run(["sh", "-c", curl], env=outside, capture_output=True, timeout=30, check=True)
        assert [choice["text"] for choice in json.loads(answer.stdout)["choices"]] == texts(page)
        if way == "beams":  # the program takes a second to start: one of it will do
            return
        pytest.importorskip("openai", reason="the copied program uses the openai client")
        answer = subprocess.run(
            [sys.executable, "-c", python], env=outside, capture_output=True, timeout=60, check=True
        )
        assert answer.stdout.decode() == "".join(text + "\n" for text in texts(page))


def test_a_service_with_a_key_is_asked_with_it(browser: Browser) -> None:
    with serving(key=KEY) as service, opened(browser, service.address, needs_key=True) as page:
        page.keyboard.type("schlüssel")  # no header can hold it
        page.keyboard.press("Enter")
        assert page.evaluate(
            "document.getElementById('ask').open && !document.getElementById('ask-key').validity.valid"
        )
        page.fill("#ask-key", " wrong-key ")
        page.keyboard.press("Enter")
        expect(page.locator("#ask-why")).to_contain_text("wrong")
        page.keyboard.press("Escape")  # not now
        page.wait_for_selector("#error:visible")
        page.click("#go")
        page.wait_for_selector("#ask[open]")
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        done(page)
        assert len(texts(page)) == 1
        kept = page.evaluate("[sessionStorage.length, localStorage.length, document.cookie, location.href]")
        assert kept[:3] == [1, 0, ""]
        assert KEY not in kept[3] + page.content()
        page.click("#key")
        assert page.evaluate("sessionStorage.length") == 0


def test_what_goes_wrong_is_told_in_one_line(page: Page) -> None:
    run(page, "Say: ")
    before = texts(page)
    page.fill("#prompt", "x" * (MAX_LEN + 1))
    page.click("#go")
    page.wait_for_selector("#error:visible")
    assert "the context 160" in page.inner_text("#error")
    assert texts(page) == before
    fill(page, top_k=0)
    page.click("#go")
    assert page.inner_text("#error").startswith("Top-k: ")
    assert page.evaluate("document.activeElement.name") == "top_k"
    page.click("#copies [data-copy=curl]")
    assert page.is_visible("#error")
    fill(page, top_k="")
    page.keyboard.press("Tab")
    assert page.is_hidden("#error")
    page.fill("#prompt", "Say: ")

    for answer, told in [
        ({"status": 429, "headers": {"Retry-After": "7"}, "body": '{"error": {"message": "full"}}'}, "again in 7 s"),
        ({"status": 502, "body": "<html>"}, "answered 502"),
        ({"status": 200, "body": 'data: {"error": {"message": "the engine failed"}}\n\n'}, "the engine failed"),
        ({"status": 200, "body": 'data: {"choices": [{"index": 0, "text": "begun"}]}\n\n'}, "broke off"),
    ]:
        page.route("**/v1/completions", partial(_fulfill, answer))
        page.click("#go")
        expect(page.locator("#error")).to_contain_text(told)
        page.unroute("**/v1/completions")
    assert texts(page) == ["begun"]
    run(page)  # and the next goes well
    assert page.is_hidden("#error")


def _fulfill(answer: dict[str, Any], route: Route) -> None:
    route.fulfill(**answer)


def test_it_can_be_used_by_keyboard_alone(page: Page, service: Running) -> None:
    press = page.keyboard.press
    focused = "(document.activeElement.id || document.activeElement.name || document.activeElement.className)"
    ringed = "document.activeElement.name === 'way' ? document.activeElement.nextSibling : document.activeElement"
    assert page.evaluate(focused) == "prompt"
    page.keyboard.type("Say: ")
    press("Control+Enter")
    done(page)
    passed = []
    while not (passed and passed[-1].startswith("token")):
        press("Tab")
        passed.append(page.evaluate(focused))
        assert page.evaluate(f"getComputedStyle({ringed}).outlineStyle") != "none", passed[-1]
        assert len(passed) < 60, passed
    assert passed[0] == "go"
    assert {"temperature", "top_k", "stop", "seed", "max_tokens", "inspect"} <= set(passed)
    press("ArrowRight")
    press("ArrowRight")
    press("Enter")
    press("ArrowDown")
    press("Escape")
    assert page.evaluate("document.activeElement.dataset.index") == "2"
    press("Enter")
    press("Enter")
    expect(page.locator(".sample")).to_have_count(2)
    done(page)
    assert "branch" in page.evaluate("document.activeElement.className")
    unnamed = "field => !field.labels?.length && !field.getAttribute('aria-labelledby') && !field.textContent.trim()"
    assert page.evaluate(f"[...document.querySelectorAll('input, textarea, button')].filter({unnamed}).length") == 0


@pytest.mark.parametrize(("width", "height"), [(360, 740), (768, 1024), (1280, 800)])
def test_it_fits_every_screen_by_day_and_by_night(browser: Browser, service: Running, width: int, height: int) -> None:
    is_phone = width < 500
    look = {"viewport": {"width": width, "height": height}, "has_touch": is_phone, "is_mobile": is_phone}
    with opened(browser, service.address, "n=2&max_tokens=24", reduced_motion="reduce", **look) as page:
        run(page, "A long word: " + "x" * 80)
        page.click("#card summary")
        page.evaluate("document.getElementById('settings').open = true")
        for place in (0, 12, 47):
            page.locator(".token").nth(place).click()
            box = page.locator("#alternatives").bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.keyboard.press("Escape")
        if is_phone:
            small = "one => one.offsetParent && one.getBoundingClientRect().height < 40"
            assert page.evaluate(f"[...document.querySelectorAll('button')].filter({small}).length") == 0
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            ink, paper, muted = (page.evaluate(f"getComputedStyle(document.{what}") for what in COLOURS)
            assert contrast(ink, paper) > 7
            assert contrast(muted, paper) > 4.5
            assert (brightness(ink) > brightness(paper)) == (scheme == "dark")


def brightness(colour: str) -> float:
    """Relative luminance, as WCAG 2 has it."""
    parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted([brightness(one), brightness(other)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_the_card_tells_of_the_model(page: Page) -> None:
    assert page.inner_text("#model") == "speaker · 12.3M parameters · context 160"
    page.click("#card summary")
    facts = dict(zip(page.locator("dt").all_inner_texts(), page.locator("dd").all_inner_texts(), strict=True))
    assert facts["parameters"] == "12,345,678"
    assert facts["memory"] == "47.095 MiB, float32"
    assert facts["splits.train"] == "0.9"
    assert facts["loss"] == "1.25"
    assert page.get_attribute("[name=max_tokens]", "max") == str(MAX_LEN)


def test_nothing_is_inline_and_no_text_becomes_markup() -> None:
    """What the service's content security policy forbids, and what would make a model's text a program."""
    html = (FOLDER / "index.html").read_text(encoding="utf-8")
    assert not re.search(r"<style|style=|\son\w+=|<script(?![^>]*src=)|https?://", html)
    for script in FOLDER.glob("*.js"):
        code = script.read_text(encoding="utf-8")
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", code), (
            script
        )
