"""The name of the output file, where none is given, says what is asked for."""

from typing import Any

import pytest

from layerscope.config import Config
from layerscope.planning.settings import output_file


@pytest.mark.parametrize(
    ("asked", "name"),
    [
        ({}, "piqa_sae_top100_all_layers.jsonl"),
        ({"standin": True, "top_k": 20}, "bundled_sae_top20_all_layers.jsonl"),
        ({"top_k": "all", "layers": "20, 8"}, "piqa_sae_all_layers_8,20.jsonl"),
        ({"layers": "0-3,2-5"}, "piqa_sae_top100_layers_0-5.jsonl"),
        ({"shard": "3/16"}, "piqa_sae_top100_all_layers_shard_3_of_16.jsonl"),
        ({"dataset": "/data/my own.set.jsonl"}, "my_own.set_sae_top100_all_layers.jsonl"),
        ({"dataset": "-\udcfc.jsonl"}, "__sae_top100_all_layers.jsonl"),
        ({"dataset": "..jsonl"}, "questions_sae_top100_all_layers.jsonl"),
        ({"output_file": "mine.jsonl", "top_k": 3}, "mine.jsonl"),
    ],
)
def test_the_default_name_says_what_is_asked_for(asked: dict[str, Any], name: str) -> None:
    assert output_file(Config(**asked)) == name


def test_the_default_name_is_never_too_long() -> None:
    layers = ",".join(map(str, range(0, 2000, 2)))
    assert len(output_file(Config(dataset="q" * 300, layers=layers, shard="1/999999999"))) < 200
