"""The settings refuse what cannot be, by the option's name, and the command line spells them as the messages do."""

import dataclasses
from typing import Any

import pytest

from layerscope.config import MAX_BATCH_TOKENS, Config, option, parse_layers, parse_prompt, parse_readings
from layerscope.config.command_line import call
from layerscope.errors import UsageError

COUNTS = (
    "num_samples",
    "top_k",
    "batch_tokens",
    "threads",
    "gemma_actors",
    "layer_blocks",
    "encoders_per_block",
)
FLAGS = {"tokens", "all_solutions", "strip_solutions", "overwrite", "retry_errors", "standin", "baseline_dictionary"}


def from_command_line(*arguments: str) -> Config:
    return call(Config, arguments, "run", {})


def test_the_command_line_knows_every_field_under_the_name_that_messages_use() -> None:
    values = {
        "model": "some/model",
        "revision": "v2",
        "sae_repo": "some/saes",
        "sae_revision": "v2",
        "sae_repo_id": "google/gemma-scope-2b-pt-res",
        "site": "mlp_out",
        "sae_width": "65k",
        "sae_l0": "71",
        "layers": "8,20",
        "dataset": "questions.jsonl",
        "split": "train",
        "dataset_revision": "v1",
        "config": "main",
        "columns": "goal=q,sol1=a,sol2=b,label=c",
        "first_label": "1",
        "metadata": "id,category",
        "num_samples": "all",
        "seed": -3,
        "top_k": "all",
        "readings": "final,max",
        "attribution": "relp",
        "attribution_baseline": "mean:means.npz",
        "token_activations": 4,
        "residuals": "float16",
        "prompt": "chat",
        "solution_separator": "",
        "system_prompt": "Be brief.",
        "dtype": "float32",
        "sae_dtype": "bfloat16",
        "batch_tokens": 512,
        "threads": 2,
        "output_file": "out.json",
        "shard": "1/1",
        "writers": 16,
        "timeline": "timeline.json",
        "device": "cuda",
        "gpu_type": "H100",
        "gemma_actors": 3,
        "gemma_gpus": 4,
        "encoder_gpus": 0,
        "layer_blocks": "auto",
        "encoders_per_block": 2,
        "address": "local",
        "patience": 5,
    }
    shots: dict[str, Any] = {"shots": 5, "shots_from": "train.csv"}  # for which a chat has no place
    assert {field.name for field in dataclasses.fields(Config)} == values.keys() | FLAGS | shots.keys() | {"dictionary"}
    arguments = [argument for name, value in values.items() for argument in (option(name), str(value))]
    config = from_command_line(*arguments, option("strip_solutions"), option("tokens"), option("overwrite"))
    assert config == Config(**values, strip_solutions=True, tokens=True, overwrite=True)  # type: ignore[arg-type]
    assert from_command_line("--shots", "5", "--shots-from", "train.csv") == Config(**shots)
    assert from_command_line("--standin", "--retry-errors") == Config(standin=True, retry_errors=True)
    several = from_command_line("--dictionary", "wide=auto,width=65k", "--dictionary", "mlp=some/saes")
    assert several == Config(dictionary=("wide=auto,width=65k", "mlp=some/saes"))


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("value", [0, -1])
def test_a_count_below_one_is_refused(name: str, value: int) -> None:
    with pytest.raises(UsageError, match=rf"{option(name)} is {value}\b"):
        Config(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"batch_tokens": MAX_BATCH_TOKENS + 1}, "--batch-tokens"),
        ({"top_k": 10**30}, "--top-k"),
        ({"token_activations": 10**30, "readings": "max"}, "--token-activations"),
        ({"sae_l0": "0"}, "--sae-l0"),
        ({"sae_l0": "nearest"}, "--sae-l0"),
        ({"sae_l0": "-71"}, "--sae-l0"),
        ({"sae_l0": "71\n"}, "--sae-l0"),
        ({"sae_width": "16K"}, "--sae-width"),
        ({"sae_width": "016k"}, "--sae-width"),
        ({"sae_width": ""}, "--sae-width"),
        ({"output_file": ""}, "--output-file"),
        ({"layers": "some"}, "--layers"),
        ({"token_activations": 2}, "--token-activations is 2, and --readings is final.*\\n.*give --readings final,max"),
        ({"token_activations": -1, "readings": "max"}, "--token-activations is -1"),
        ({"readings": "mean"}, "--readings has 'mean'.*\\n.*final, last-word, max, prompt"),
        ({"readings": "max,,final"}, "--readings has ''"),
        ({"readings": "max,final,max"}, "--readings names max twice"),
        ({"prompt": "Question:"}, "--prompt is 'Question:', without {goal}"),
        ({"prompt": ""}, "--prompt is '', without {goal}"),
        ({"prompt": "{goal} {solution}"}, "--prompt is .* with {solution}"),
        ({"prompt": "{goal} {sol1}"}, "--prompt is .* with {sol1}"),
        ({"prompt": "{goal}: "}, "--prompt ends with a blank"),
        ({"solution_separator": " {goal} "}, "--solution-separator is ' {goal} ', with {goal}"),
        ({"prompt": "chat", "solution_separator": "{solution}"}, "--solution-separator is .* with {solution}"),
        ({"system_prompt": "Be brief."}, "--system-prompt belongs to --prompt chat"),
        ({"overwrite": True, "retry_errors": True}, "--overwrite"),
        ({"standin": True, "model": "some/model"}, "--model"),
        ({"standin": True, "revision": "v2"}, "--revision"),
        ({"standin": True, "sae_repo": "some/saes"}, "--sae-repo"),
        ({"prompt": "a\udcff{goal}"}, "--prompt"),
        ({"prompt": "chat", "system_prompt": "\ud800"}, "--system-prompt"),
        ({"solution_separator": "\udcff"}, "--solution-separator"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_the_name_of_its_option(settings: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        Config(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [{"batch_tokens": MAX_BATCH_TOKENS}, {"sae_l0": "min"}, {"sae_l0": "1"}, {"sae_width": "1m"}, {"sae_width": "512"}],
)
def test_a_value_at_the_edge_is_taken(settings: dict[str, object]) -> None:
    assert dataclasses.asdict(Config(**settings)).items() >= settings.items()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "layers"),
    [("all", None), ("8", {8}), ("0-3", {0, 1, 2, 3}), (" 8 , 20-21,8", {8, 20, 21}), ("5-5", {5}), ("007", {7})],
)
def test_layers_are_numbers_and_ranges(text: str, layers: set[int] | None) -> None:
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "8,", "-1", "3-", "1-2-3", "1.5", "a", "8 20", "ALL", "all,3", "0-99999"])
def test_layers_that_are_no_numbers_are_refused_with_what_was_written(text: str) -> None:
    with pytest.raises(UsageError, match=r"--layers is .*0-25 or 8,20") as caught:
        parse_layers(text)
    assert repr(text) in str(caught.value)


def test_a_range_that_runs_backwards_is_refused_with_the_range_that_was_meant() -> None:
    with pytest.raises(UsageError, match=r"8-7.*write 7-8"):
        parse_layers("0,8-7")


@pytest.mark.parametrize("shard", ["", "3", "0/4", "5/4", "1/0", "a/b", "1/4 ", "-1/4", "1/2/3"])
def test_a_shard_that_is_none_is_refused(shard: str) -> None:
    with pytest.raises(UsageError, match="--shard is"):
        Config(shard=shard)


def test_no_gpu_for_the_encoders_is_a_choice_and_fewer_is_not() -> None:
    assert Config(encoder_gpus=0).encoder_gpus == 0
    with pytest.raises(UsageError, match="--encoder-gpus is -1"):
        Config(encoder_gpus=-1)


@pytest.mark.parametrize(
    ("text", "readings"),
    [
        ("final", ("final",)),
        ("max", ("final", "max")),
        ("prompt, max ,final", ("final", "max", "prompt")),
        ("prompt,max,last-word,final", ("final", "last-word", "max", "prompt")),
    ],
)
def test_readings_come_in_the_order_of_the_record_and_the_final_one_is_always_there(
    text: str, readings: tuple[str, ...]
) -> None:
    """What existing scripts read as the features of a solution is never another reading's, nor nothing."""
    assert parse_readings(text) == readings


@pytest.mark.parametrize(
    ("template", "separator", "parts"),
    [
        (Config.prompt, "auto", ("Question: {goal}\nSolution:", " ")),
        ("Question: {goal}\nSolution:", "auto", ("Question: {goal}\nSolution:", " ")),
        (r"a\\n\t{goal}", r"\n", ("a\\n\t{goal}", "\n")),
        ("{goal} {topic} {}", "", ("{goal} {topic} {}", "")),
        ("A: {goal} \t", "", ("A: {goal}", " \t")),  # else the first word would be read without the blank before it
        ("A: {goal}\n", "", ("A: {goal}\n", "")),
        ("chat", "auto", ("chat", "")),
        ("chat", " ", ("chat", " ")),
    ],
)
def test_a_prompt_ends_where_the_separator_begins(template: str, separator: str, parts: tuple[str, str]) -> None:
    assert parse_prompt(template, separator) == parts


def test_a_companion_of_the_stand_in_is_told_which_of_both_to_leave_out() -> None:
    with pytest.raises(UsageError, match=r"--sae-repo mine names others(?s:.)*downloads leave out --sae-repo"):
        Config(standin=True, sae_repo="mine")
