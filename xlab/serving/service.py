"""What the routes work with: the model, the engine in its thread, the limits, and what is measured."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from starlette.requests import Request as HttpRequest

from xlab.inference import Request
from xlab.serving.calls import Call
from xlab.serving.chat_template import PromptTemplate
from xlab.serving.limits import Limits
from xlab.serving.metrics import Metrics
from xlab.serving.model import Served
from xlab.serving.runner import Runner
from xlab.serving.scores import TokenTexts


@dataclass(frozen=True)
class Service:
    """One model, ready to answer.

    Attributes:
        model: what is served.
        runner: its engine.
        limits: of each request.
        metrics: counts what happens.
        template: makes a prompt of a chat.
        log_prompts: whether prompts and texts may be logged.
        created: seconds since 1970.
    """

    model: Served
    runner: Runner
    limits: Limits
    metrics: Metrics
    template: PromptTemplate
    log_prompts: bool = False
    created: int = field(default_factory=lambda: int(time.time()))

    def submit(self, http: HttpRequest, requests: Sequence[Request], prompts: Sequence[str], *, streams: bool) -> Call:
        """Queue what an HTTP request asks for, and let its line in the log tell of it.

        Raises:
            RequestError: when the queue is full, or the service ends.
        """
        call = self.runner.submit(requests, streams=streams, seconds=self.limits.seconds)
        http.scope["call"] = call
        if self.log_prompts:
            http.scope["log"]["prompts"] = list(prompts)
        return call

    @cached_property
    def texts(self) -> TokenTexts:
        """The texts of single tokens."""
        return TokenTexts(self.model.tokenizer)
