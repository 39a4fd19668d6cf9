"""A model of bytes that says what it is told to, the service over it, and a browser's page that tells on itself."""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import torch
from playwright.sync_api import Browser, Page, expect
from torch import Tensor, nn

from xlab.data.tokenizers import ByteLevelBPE, Tokenizer
from xlab.inference import Engine
from xlab.serving.chat_template import template_of
from xlab.serving.keys import Keys
from xlab.serving.limits import Limits
from xlab.serving.metrics import Metrics
from xlab.serving.model import Served
from xlab.serving.runner import Runner
from xlab.serving.server import listen, make_server
from xlab.serving.service import Service

KEY = "a-key-for-tests"
# markup, characters of two to four bytes, and white space of every kind
VOICE = "Zoë’s <script>document.title = 'owned'</script>\n\n<b>&amp;\t“naïve” 🦉</b>  and so on. "
MAX_LEN = 160
PATIENCE = 10.0  # seconds to wait for what should take a moment
CHROMIUM = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync"]
CHROMIUM += ["--disable-background-networking", "--disable-component-update"]


class Speaker(nn.Module):
    """At each place the next byte of ``VOICE`` is the likeliest; others are about as likely as each other.

    ``hold`` lets so many more steps pass, and then stands still until ``release``.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.vocab_size, self.max_len = len(tokenizer), MAX_LEN
        voice = tokenizer.encode(VOICE)
        voice = (voice * (1 + MAX_LEN // len(voice)))[:MAX_LEN]
        self.register_buffer("voice", 8.0 * nn.functional.one_hot(torch.tensor(voice), self.vocab_size))
        noise = torch.randn(64, self.vocab_size, generator=torch.Generator().manual_seed(0))
        noise[:, [tokenizer.eos_id, tokenizer.sos_id, tokenizer.pad_id]] = -20.0
        self.register_buffer("noise", noise)
        self._open, self._left = threading.Event(), threading.Semaphore(0)
        self._open.set()

    def forward(self, ids: Tensor) -> Tensor:
        if not self._open.is_set():
            self._left.acquire(timeout=60)
        return self.noise[(ids * 7 + torch.arange(ids.size(1))) % 64] + self.voice[: ids.size(1)]

    def hold(self, after: int) -> None:
        self._left = threading.Semaphore(after)
        self._open.clear()

    def release(self) -> None:
        self._open.set()
        self._left.release(1000)


@dataclass
class Running:
    """A service, and how to ask it without a browser."""

    address: str
    speaker: Speaker
    tokenizer: Tokenizer
    headers: dict[str, str] = field(default_factory=dict)

    def complete(self, request: dict[str, Any]) -> list[dict[str, Any]]:
        """The choices of the API's own answer."""
        answer = httpx.post(f"{self.address}/v1/completions", json=request, headers=self.headers, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"]

    def rows_used(self) -> int:
        """Rows of the engine that texts hold, as /metrics tells."""
        lines = httpx.get(f"{self.address}/metrics", headers=self.headers).text.splitlines()
        return int(float(next(line.split()[1] for line in lines if line.startswith("xlab_rows_used "))))


@contextlib.contextmanager
def serving(*, key: str | None = None) -> Iterator[Running]:
    """Serve a Speaker on a free port of this machine."""
    tokenizer = ByteLevelBPE().make(iter([""]), 259)
    speaker = Speaker(tokenizer)
    facts = {"parameters": 12_345_678, "bytes": 49_382_712, "vocab_size": 259, "max_len": MAX_LEN, "d_model": 8}
    facts |= {"n_layers": 1, "n_heads": 1, "precision": "float32", "step": 3, "xlab_version": "0"}
    facts |= {"data": {"source": "Voice", "splits": {"train": 0.9}}, "validation": {"loss": 1.25}}
    metrics = Metrics()
    runner = Runner(Engine(speaker, tokenizer, max_rows=8), max_queue=8, on_end=metrics.note_end)
    metrics.watch(runner)
    service = Service(
        Served("speaker", tokenizer, 259, MAX_LEN, facts),
        runner,
        Limits(max_tokens=MAX_LEN, texts=8),
        metrics,
        template_of(None, tokenizer),
    )
    with listen("127.0.0.1", 0) as listener:
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        server = make_server(service, keys=Keys([key] if key else []), drain=0.1)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            until(lambda: server.started, "the service has not started")
            yield Running(address, speaker, tokenizer, headers)
        finally:
            speaker.release()
            server.should_exit = True
            thread.join(PATIENCE)


def until(is_so: Callable[[], bool], complaint: str) -> None:
    """Wait for something that should be so in a moment."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline, complaint
        time.sleep(0.01)


@contextlib.contextmanager
def opened(
    browser: Browser, address: str, fragment: str = "", *, needs_key: bool = False, **settings: Any
) -> Iterator[Page]:
    """Open the playground; at the end, nothing on it has failed, and it has asked nobody but the service."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 800}, **settings})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(1000 * PATIENCE)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("request", lambda request: None if request.url.startswith(address) else faults.append(request.url))
    try:
        page.goto(f"{address}/#{fragment}")
        page.wait_for_selector("#ask[open]" if needs_key else "#facts dl", state="attached")
        yield page
        # a browser tells of every status that is not 200
        assert [fault for fault in faults if "the server responded with a status of" not in fault] == []
        assert page.title() == "XLab playground"  # no script of the model's has run
    finally:
        context.close()


def run(page: Page, prompt: str | None = None) -> None:
    """Run what the page says, and wait for the end."""
    if prompt is not None:
        page.fill("#prompt", prompt)
    page.click("#go")
    done(page)


def done(page: Page) -> None:
    """Wait for the texts' end."""
    expect(page.locator("#status")).to_have_text(re.compile("^Done"))


def texts(page: Page) -> list[str]:
    """What the page shows after the prompt, text by text."""
    return page.locator(".sample .text").evaluate_all("all => all.map((one) => one.textContent)")


def copied(page: Page, kind: str, *, of: str = "#copies") -> str:
    """What one of the buttons copies."""
    page.click(f"{of} [data-copy={kind}]")
    expect(page.locator("#status")).to_have_text(re.compile("^Copied"))
    text: str = page.evaluate("navigator.clipboard.readText()")
    page.evaluate("document.getElementById('status').textContent = ''")
    return text
