"""A file of means is what its run holds, fits the run that takes it, and is named where it does not."""

from pathlib import Path

import numpy as np
import orjson
import pytest

import layerscope
from layerscope.errors import LayerscopeError, UsageError
from layerscope.records.means import find_means, read_means, save_means
from made_up import edit_manifest
from synthetic_readings import SIDES, write_readings


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """With every activation at every token."""
    path = tmp_path / "run.jsonl"
    write_readings(path, 40, by_token=1000)
    edit_manifest(path, lambda manifest: manifest["identity"]["settings"].update(top_k="all"))
    return path


def test_means_are_those_over_all_tokens_of_all_solutions(run: Path) -> None:
    file = layerscope.write_means(run, run.with_name("means.npz"))
    found = read_means(find_means(str(file), [0, 1], 512), [0, 1])
    for layer in (0, 1):
        sums, tokens = np.zeros(512), 0
        for line in run.read_bytes().splitlines():
            for details in (orjson.loads(line)[side] for side in SIDES):
                tokens += details["token_count"]
                for feature in details["other_readings"]["max"]["active_features_by_layer"][str(layer)]:
                    sums[feature["feature_id"]] += sum(feature["token_activations"])
        assert np.count_nonzero(sums) > 20
        assert found[layer] == pytest.approx(sums / tokens, rel=1e-6)
    with pytest.raises(UsageError, match=r"means\.npz"):
        layerscope.write_means(run, file)


@pytest.mark.parametrize(
    ("settings", "by_token", "said"),
    [
        ({"top_k": 100}, 1000, "has not every activation at every token"),
        ({"top_k": "all", "token_activations": 1}, 1, "has not every feature's activations at every token"),
    ],
)
def test_a_run_that_lacks_activations_makes_none(
    tmp_path: Path, settings: dict[str, object], by_token: int, said: str
) -> None:
    """Their mean would be too small without a word."""
    write_readings(tmp_path / "run.jsonl", 12, by_token)
    edit_manifest(tmp_path / "run.jsonl", lambda manifest: manifest["identity"]["settings"].update(settings))
    with pytest.raises(UsageError, match=said):
        layerscope.write_means(tmp_path / "run.jsonl", tmp_path / "means.npz")
    assert not (tmp_path / "means.npz").exists()


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    file = tmp_path / "means.npz"
    with pytest.raises(UsageError, match="There is no file"):
        find_means(str(file), [8], 4)
    save_means(file, {8: np.ones(4, np.float32)})
    means = find_means(str(file), [8], 4)
    with pytest.raises(UsageError, match="means of 4 features in layer 8; the SAEs have 5"):
        find_means(str(file), [8], 5)
    with pytest.raises(UsageError, match="no means of layers 8, 20"):
        find_means(str(file), [8, 20], 4)
    save_means(file, {8: np.zeros(4, np.float32)})
    with pytest.raises(LayerscopeError, match="was changed since the run began"):
        read_means(means, [8])
    for bad in (-1.0, np.nan):
        save_means(file, {8: np.full(4, bad, np.float32)})
        with pytest.raises(UsageError, match="below 0 or no number"):
            find_means(str(file), [8], 4)
    file.write_bytes(b"nothing")
    with pytest.raises(UsageError, match="has no means of layers 8"):
        find_means(str(file), [8], 4)
