"""Known benchmarks by name: from files in the layout that each has on the hub to questions and prompts."""

import io
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from hub_server import HubServer, Repository, point_to
from layerscope.config import Config
from layerscope.errors import UsageError
from layerscope.hub.repository import open_repository
from layerscope.planning.settings import questions_wanted, settle_reading
from layerscope.questions.benchmarks import BENCHMARKS
from layerscope.questions.opening import open_source
from layerscope.questions.sources import Question

ARC = {
    "id": "MCAS_8",
    "question": "Which gas?",
    "choices": {"text": ["air", "oxygen", "none"], "label": ["1", "2", "3"]},
    "answerKey": "2",
}
MMLU = {"question": " What is it? ", "subject": "high_school_physics", "choices": ["a", "b", "b", "d"], "answer": 3}
SWAG = {
    "ind": 4,
    "activity_label": "Cleaning",
    "ctx_a": "[header] A man [title] stands.",
    "ctx_b": "he",
    "ctx": "",
    "endings": ["sits [substeps] down.", " runs.", "flies.", "eats."],
    "source_id": "wikihow~1",
    "label": "3",
}
WINO = {"sentence": "Ann met Eve because _ was ill.", "option1": "Ann", "option2": "Eve", "answer": "2"}
COPA = {"premise": "It rained. ", "choice1": "The sun set.", "choice2": "We got wet.", "question": "effect", "label": 1}
BOOLQ = {"question": "is it wet", "passage": "Rain -- It rains.", "idx": 3, "label": 1}
BLIMP = {"sentence_good": "Cats sleep.", "sentence_bad": "Cats sleeps.", "UID": "x"}

# On the hub: by data set the path of a file, and a row of it.
ON_THE_HUB: list[tuple[str, str, dict[str, Any]]] = [
    ("allenai/ai2_arc", "ARC-Easy/test-00000-of-00001.parquet", ARC),
    ("allenai/ai2_arc", "ARC-Challenge/test-00000-of-00001.parquet", ARC),
    ("allenai/ai2_arc", "ARC-Easy/validation-00000-of-00001.parquet", {**ARC, "question": "Another?"}),
    ("Rowan/hellaswag", "data/validation-00000-of-00001.parquet", SWAG),
    ("allenai/winogrande", "winogrande_xl/validation-00000-of-00001.parquet", WINO),
    ("allenai/winogrande", "winogrande_debiased/validation-00000-of-00001.parquet", {**WINO, "sentence": "_"}),
    ("aps/super_glue", "copa/validation-00000-of-00001.parquet", COPA),
    ("aps/super_glue", "boolq/validation-00000-of-00001.parquet", BOOLQ),
    ("cais/mmlu", "all/test-00000-of-00001.parquet", MMLU),
    ("cais/mmlu", "astronomy/test-00000-of-00001.parquet", {**MMLU, "subject": "astronomy"}),
    ("nyu-mll/blimp", "adjunct_island/train-00000-of-00001.parquet", BLIMP),
    ("nyu-mll/blimp", "wh_island/train-00000-of-00001.parquet", {**BLIMP, "UID": "y"}),
]
MMLU_TEXT = "multiple choice questions (with answers) about {}.\n\nWhat is it?\nA. a\nB. b\nC. b\nD. d\nAnswer:"

# By name the text of the right solution's question, up to it and from it on.
EXPECTED: dict[str, tuple[str, str, tuple[str, ...], int]] = {
    "arc_easy": ("Question: Which gas?\nAnswer:", " ", ("air", "oxygen", "none"), 1),
    "arc_challenge": ("Question: Which gas?\nAnswer:", " ", ("air", "oxygen", "none"), 1),
    "hellaswag": ("Cleaning: A man. stands. He", " ", ("sits down.", "runs.", "flies.", "eats."), 3),
    "winogrande": ("Ann met Eve because", " ", ("Ann was ill.", "Eve was ill."), 1),
    "copa": ("It rained therefore", "  ", ("the sun set.", "we got wet."), 1),
    "mmlu": ("The following are " + MMLU_TEXT.format("high school physics"), " ", tuple("ABCD"), 3),
    "mmlu:astronomy": ("The following are " + MMLU_TEXT.format("astronomy"), " ", tuple("ABCD"), 3),
    "boolq": ("Rain -- It rains.\nQuestion: is it wet?\nAnswer:", " ", ("no", "yes"), 1),
    "blimp:adjunct_island": ("", " ", ("Cats sleep.", "Cats sleeps."), 0),
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    files: dict[str, dict[str, bytes]] = {}
    for name, path, row in ON_THE_HUB:
        stream = io.BytesIO()
        pa.parquet.write_table(pa.Table.from_pylist([row]), stream)
        files.setdefault(name, {})[path] = stream.getvalue()
    with HubServer() as server:
        for name, of_name in files.items():
            server.add(Repository("dataset", name, of_name))
        point_to(server.endpoint, monkeypatch)
        yield server


def text_of(config: Config, question: Question, tiny: Any) -> tuple[str, str]:
    prompt = settle_reading(config, open_repository(str(tiny / "model")), 4).prompt
    return prompt.template.replace("{goal}", question.goal), prompt.separator


@pytest.mark.usefixtures("hub")
def test_every_line_of_the_table_reads_what_the_hub_has(tiny: Any) -> None:
    """The texts are those that lm-evaluation-harness makes of the same rows, without examples."""
    assert {name.partition(":")[0] for name in EXPECTED} == BENCHMARKS.keys()
    for name, expected in EXPECTED.items():
        config = Config(dataset=name, metadata="all")
        source = open_source(questions_wanted(config))
        (question,) = [source[index] for index in range(len(source))]
        assert (*text_of(config, question, tiny), question.solutions, question.label) == expected, name
        assert source.origin["benchmark"] == name
        assert len(question.metadata) > 2


@pytest.mark.usefixtures("hub")
def test_a_split_and_a_prompt_that_are_named_are_taken(tiny: Any) -> None:
    config = Config(dataset="arc_easy", split="validation", prompt="Q: {goal}\nA:")
    question = open_source(questions_wanted(config))[0]
    assert text_of(config, question, tiny) == ("Q: Another?\nA:", " ")


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"dataset": "blimp"}, "such as blimp:adjunct_island"),
        ({"dataset": "arc_easy:x"}, "arc_easy has no parts"),
        ({"dataset": "mmlu:no_such"}, "no data file of a test split of no_such"),
        ({"dataset": "copa", "columns": "goal=premise"}, "leave them out"),
    ],
)
def test_what_cannot_be_read_is_named(settings: dict[str, str], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        open_source(questions_wanted(Config(**settings)))  # type: ignore[arg-type]


def test_a_row_of_another_layout_is_named(hub: HubServer) -> None:
    """The hub's files may change: told with the row, not with a traceback."""
    hub.add(Repository("dataset", "aps/super_glue", {"boolq/validation.jsonl": b'{"question": "is it", "label": 1}'}))
    with pytest.raises(UsageError, match="line 1 is no row as aps/super_glue has them"):
        open_source(questions_wanted(Config(dataset="boolq")))
