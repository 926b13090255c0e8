"""The bytes of what is begun and not written, so that the object store holds it without spilling to disk."""

from layerscope.planning.job import Job

_STORE_SHARE = 0.3  # of the object store for what is begun and not written; the rest is for copies and for others


class Budget:
    """Every finished record comes to lie in the store of the driver's node, so that store is the measure.

    What a batch will take is foretold from the largest question so far; before there is one, from the SAEs' average L0.

    Args:
        store: bytes of the object store of the driver's node.
    """

    def __init__(self, job: Job, store: int) -> None:
        self._plan = job.plan
        width = 2 if job.numerics.dtype == "bfloat16" else 4
        both = 2 if job.reading.attribution else 1  # what is read and the gradient by it
        self._row = both * len(job.layers) * job.d_read * width
        self._reading, self._batch_tokens = job.reading, job.numerics.batch_tokens
        self._record = (job.estimated_bytes() + job.residual_bytes()) / max(1, job.n_questions)
        self._taken: dict[int, float] = {}
        self._limit = _STORE_SHARE * store
        self.taken = 0.0

    def has_room(self, batch: int) -> bool:
        return self.taken + self._size(batch) <= self._limit

    def take(self, batch: int) -> None:
        self._taken[batch] = self._size(batch)
        self.taken += self._taken[batch]

    def free(self, batch: int) -> None:
        self.taken -= self._taken.pop(batch, 0.0)

    def learn(self, batch: int, size: float) -> None:
        """Notes what the records of a batch took in fact."""
        self._record = max(self._record, size / len(self._plan.batch(batch)))
        self.free(batch)
        self._taken[batch] = size
        self.taken += size

    def _size(self, batch: int) -> float:
        questions = len(self._plan.batch(batch))
        return self._reading.rows(questions, self._batch_tokens) * self._row + questions * self._record
