"""What a run tells Prometheus, through Ray's exporter on every node: names begin with `layerscope_`.

`scripts/grafana_dashboard.json` draws them.
"""

from ray.util.metrics import Counter, Gauge, Histogram, Metric

_SECONDS = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]


class Metrics:
    """The metrics of one run; Ray must be there."""

    def __init__(self) -> None:
        metrics: list[Metric] = [
            Counter("layerscope_questions", "Lines written, error lines among them."),
            Counter("layerscope_error_lines", "Error lines written."),
            Counter("layerscope_tokens", "Tokens that the model read, those that two solutions share once."),
            Counter("layerscope_bytes", "Bytes written to the output file."),
            Counter("layerscope_batch_retries", "Batches that were sent back after a fault of the machine."),
            Counter("layerscope_actor_restarts", "Actors that were replaced.", ("role",)),
            Histogram(
                "layerscope_batch_seconds",
                "Time of a batch at each stage: score, encode (of one layer block), pack (where lines are compressed), "
                "turn (finished and waiting for the batches before it) and write (until the driver may go on).",
                _SECONDS,
                ("stage",),
            ),
            Gauge("layerscope_queue_depth", "Batches at each stage: score, encode and turn.", ("stage",)),
            Gauge("layerscope_actors_ready", "Actors that have loaded their weights.", ("role",)),
            Gauge("layerscope_in_flight_bytes", "Activations and records that are begun and not written."),
        ]
        self._metrics = {metric.info["name"].removeprefix("layerscope_"): metric for metric in metrics}

    def measure(self, name: str, value: float, **labels: str) -> None:
        """Adds to a counter, sets a gauge, or counts an observation."""
        metric = self._metrics[name]
        if isinstance(metric, Gauge):
            metric.set(value, labels)
        elif isinstance(metric, Histogram):
            metric.observe(value, labels)
        elif isinstance(metric, Counter) and value:  # Ray's counters refuse a zero
            metric.inc(value, labels)
