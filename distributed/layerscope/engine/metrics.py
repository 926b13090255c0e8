"""What a run tells Prometheus, through Ray's exporter on every node: names begin with `layerscope_`.

`scripts/grafana_dashboard.json` draws them.
"""

from ray.util.metrics import Counter, Gauge, Histogram

_SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]


class Metrics:
    """The metrics of one run; Ray must be there."""

    def __init__(self) -> None:
        self.questions = Counter("layerscope_questions", "Lines written, error lines among them.")
        self.errors = Counter("layerscope_error_lines", "Error lines written.")
        self.tokens = Counter("layerscope_tokens", "Tokens that the model read, those that two solutions share once.")
        self.bytes = Counter("layerscope_bytes", "Bytes written to the output file.")
        self.retries = Counter("layerscope_batch_retries", "Batches that were sent back after a fault of the machine.")
        self.restarts = Counter("layerscope_actor_restarts", "Actors that were replaced.", ("role",))
        self.batch_seconds = Histogram(
            "layerscope_batch_seconds",
            "Time of a batch at each stage: score, encode (of one layer block), turn (finished and waiting for the "
            "batches before it) and write (until the driver may go on).",
            _SECONDS,
            ("stage",),
        )
        self.queue = Gauge("layerscope_queue_depth", "Batches at each stage: score, encode and turn.", ("stage",))
        self.ready = Gauge("layerscope_actors_ready", "Actors that have loaded their weights.", ("role",))
        self.in_flight = Gauge("layerscope_in_flight_bytes", "Activations and records that are begun and not written.")
