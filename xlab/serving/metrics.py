"""What is measured, for Prometheus: requests, the queue, tokens, how long they take, and the cache."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from xlab import __version__
from xlab.inference import Request
from xlab.serving.calls import News
from xlab.serving.runner import Runner

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class Metrics:
    """The counters of one service, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "xlab_requests", "HTTP requests answered", ["route", "method", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "xlab_request_seconds",
            "From a request's arrival to its end",
            ["route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.prompt_tokens = Counter("xlab_prompt_tokens", "Tokens read", registry=self.registry)
        self.generated_tokens = Counter("xlab_generated_tokens", "Tokens written", registry=self.registry)
        self.first_token = Histogram(
            "xlab_first_token_seconds", "From the queue to the first token", buckets=SECONDS, registry=self.registry
        )
        self.token = Histogram(
            "xlab_token_seconds",
            "Between the tokens of a text, each text's mean",
            buckets=TOKEN_SECONDS,
            registry=self.registry,
        )
        self.queued = Histogram(
            "xlab_queued_seconds", "From the queue to a row", buckets=SECONDS, registry=self.registry
        )
        self.ends = Counter("xlab_ends", "Prompts that ended, by how", ["how"], registry=self.registry)

    def watch(self, runner: Runner) -> None:
        """Report what a runner and its engine hold whenever somebody asks."""
        engine = runner.engine

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"xlab_{name}", text, registry=self.registry)

        rows = lambda: len(engine.rows.rows)  # noqa: E731
        gauge("texts", "Texts being written or waiting").set_function(lambda: runner.texts)
        gauge("texts_limit", "Texts that may be written or wait").set(runner.capacity)
        gauge("rows_used", "Rows of the cache in use").set_function(rows)
        gauge("rows", "Rows of the cache").set(engine.max_rows)
        gauge("cache_tokens_used", "Tokens that the cache holds").set_function(
            lambda: sum(row.held for row in list(engine.rows.rows))
        )
        gauge("cache_tokens", "Tokens that the cache has room for").set(engine.max_rows * (engine.max_len or 0))
        gauge("cache_bytes", "Bytes of the cache").set(engine.cache_bytes)
        gauge("engine_faults", "Steps of the engine that failed").set_function(lambda: runner.faults)
        gauge("ready", "Whether requests are taken").set_function(lambda: int(runner.is_ready))
        Gauge("xlab_info", "XLab's version", ["version"], registry=self.registry).labels(__version__).set(1)

    def note_end(self, request: Request, news: News) -> None:
        """Count a prompt that ended."""
        result = news.result
        if result is None:
            self.ends.labels((news.error.code if news.error else None) or "refused").inc()
            return
        self.ends.labels("answered").inc()
        self.prompt_tokens.inc(result.prompt_tokens)
        longest = max((len(completion.tokens) for completion in result.completions), default=0)
        self.generated_tokens.inc(sum(len(completion.tokens) for completion in result.completions))
        self.queued.observe(result.timings.started)
        self.first_token.observe(result.timings.first_token)
        if longest > 1:
            self.token.observe((result.timings.finished - result.timings.first_token) / (longest - 1))

    def text(self) -> bytes:
        """All of it, in Prometheus's text format."""
        return generate_latest(self.registry)
