"""What Prometheus may know."""

from collections.abc import Iterator
from typing import Final, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from baremetalrt.core.tasks import failures
from baremetalrt.serve.admission import Admission
from baremetalrt.session.session import GenerationStats

CONTENT_TYPE: Final = CONTENT_TYPE_LATEST
_SECONDS: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Counts(Protocol):
    """Who counts what was computed for a request."""

    def count_generation(self, stats: GenerationStats) -> None: ...


class Metrics:
    """The counters of one server."""

    def __init__(self, admission: Admission) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "bmrt_requests",
            "HTTP requests by path and status.",
            ["path", "status"],
            registry=self.registry,
        )
        self._prompt_tokens = Counter(
            "bmrt_prompt_tokens",
            "Prompt tokens, computed or found in the cache.",
            ["source"],
            registry=self.registry,
        )
        self._generated_tokens = Counter(
            "bmrt_generated_tokens", "Generated tokens.", registry=self.registry
        )
        self._prefill = Histogram(
            "bmrt_prefill_seconds",
            "Time from the start of a prompt to its first token.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._decode = Histogram(
            "bmrt_decode_seconds",
            "Time from the first to the last token of an answer.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        active = Gauge("bmrt_active_requests", "Requests being answered.", registry=self.registry)
        active.set_function(lambda: admission.active)
        waiting = Gauge("bmrt_waiting_requests", "Requests in the queue.", registry=self.registry)
        waiting.set_function(lambda: admission.waiting)
        self.registry.register(_Failures())

    def count_request(self, path: str, status: int) -> None:
        self._requests.labels(path, str(status)).inc()

    def count_generation(self, stats: GenerationStats) -> None:
        self._prompt_tokens.labels("cache").inc(stats.cached_tokens)
        self._prompt_tokens.labels("computed").inc(stats.prompt_tokens - stats.cached_tokens)
        self._generated_tokens.inc(stats.generated_tokens)
        self._prefill.observe(stats.prefill_s)
        self._decode.observe(stats.decode_s)

    def render(self) -> bytes:
        return generate_latest(self.registry)


class _Failures(Collector):
    """Unexpected errors of this process, as `core.tasks` counts them."""

    def collect(self) -> Iterator[Metric]:
        counted = CounterMetricFamily(
            "bmrt_failures", "Unexpected errors, by what was being done.", labels=["what"]
        )
        for what, count in sorted(failures.items()):
            counted.add_metric([what], count)
        yield counted
