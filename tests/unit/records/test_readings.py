"""What a record has beside the reading `final`: its form, how it is read, and what `verify` finds wrong with it."""

import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from layerscope.errors import LayerscopeError, UsageError
from layerscope.questions.sources import Question
from layerscope.records.line.checking import check
from layerscope.records.line.lines import error_line
from layerscope.records.line.pieces import SolutionScore
from layerscope.records.line.readings import PlacedFeature
from layerscope.records.line.record import NotARecordError, Record, parse
from layerscope.records.manifest.manifest import read_manifest
from layerscope.records.reading.run import RecordsFile, Run
from layerscope.records.verify import verify
from made_up import Features, edit_manifest, identity, note_lines, record_line, write_run

QUESTION = Question(7, "soap", "rub it", "eat.", 1)
SCORES = (
    SolutionScore(-3.5, 2, "▁it", ["rub", " it"], last_word=1),
    SolutionScore(-2.25, 3, ".", ["ea", "t", "."], last_word=1),
)
Cells = dict[int, tuple[Features, Features]]
FINAL: Cells = {3: ([(1, 2.5)], []), 8: ([], [(4, 1.0)])}
LAST_WORD: Cells = {3: ([(1, 2.5)], [(9, 0.5)]), 8: ([], [])}
MAX: Cells = {3: ([(1, 2.5)], [(9, 0.5), (4, 0.25)]), 8: ([(7, 0.125)], [(4, 1.0)])}
PROMPT: Cells = {3: ([(2, 0.75)], [(2, 0.75)]), 8: ([], [])}
OTHERS = {"last-word": LAST_WORD, "max": MAX, "prompt": PROMPT}
LINE = record_line(QUESTION, SCORES, FINAL, others=OTHERS)
READINGS = "final,last-word,max,prompt"


def run_of(path: Path, lines: list[bytes], readings: str = READINGS, tokens: bool = True) -> Path:
    return write_run(path / "out.jsonl", lines, identity((3, 8), readings=readings, tokens=tokens))


def test_a_line_with_all_readings_and_tokens_is_these_bytes() -> None:
    """What the reading `final` has stands where scripts have always read it; the rest follows."""
    expected = (
        '{"example_id":7,"question":"soap","model_is_correct":true,'
        '"positive_solution_details":{"text":"eat.","log_likelihood":-2.25,'
        '"active_features_by_layer":{"3":[],"8":[{"feature_id":4,"activation":1.0,"layer":8}]},'
        '"active_feature_count_by_layer":{"3":0,"8":1},"token_count":3,"final_token":".","tokens":["ea","t","."],'
        '"other_readings":{'
        '"last-word":{"active_features_by_layer":{"3":[{"feature_id":9,"activation":0.5,"layer":3}],"8":[]},'
        '"active_feature_count_by_layer":{"3":1,"8":0},"token":1},'
        '"max":{"active_features_by_layer":{'
        '"3":[{"feature_id":9,"activation":0.5,"layer":3,"token":0,"token_count":1},'
        '{"feature_id":4,"activation":0.25,"layer":3,"token":1,"token_count":1}],'
        '"8":[{"feature_id":4,"activation":1.0,"layer":8,"token":1,"token_count":1}]},'
        '"active_feature_count_by_layer":{"3":2,"8":1}},'
        '"prompt":{"active_features_by_layer":{"3":[{"feature_id":2,"activation":0.75,"layer":3}],"8":[]},'
        '"active_feature_count_by_layer":{"3":1,"8":0}}}},'
        '"negative_solution_details":{"text":"rub it","log_likelihood":-3.5,'
        '"active_features_by_layer":{"3":[{"feature_id":1,"activation":2.5,"layer":3}],"8":[]},'
        '"active_feature_count_by_layer":{"3":1,"8":0},"token_count":2,"final_token":"▁it","tokens":["rub"," it"],'
        '"other_readings":{'
        '"last-word":{"active_features_by_layer":{"3":[{"feature_id":1,"activation":2.5,"layer":3}],"8":[]},'
        '"active_feature_count_by_layer":{"3":1,"8":0},"token":1},'
        '"max":{"active_features_by_layer":{'
        '"3":[{"feature_id":1,"activation":2.5,"layer":3,"token":1,"token_count":1}],'
        '"8":[{"feature_id":7,"activation":0.125,"layer":8,"token":1,"token_count":1}]},'
        '"active_feature_count_by_layer":{"3":1,"8":1}},'
        '"prompt":{"active_features_by_layer":{"3":[{"feature_id":2,"activation":0.75,"layer":3}],"8":[]},'
        '"active_feature_count_by_layer":{"3":1,"8":0}}}},"label":1,"error":""}'
    )
    assert expected.encode() + b"\n" == LINE


def test_the_first_features_of_max_have_their_activation_at_every_token_where_asked_for(tmp_path: Path) -> None:
    line = record_line(QUESTION, SCORES, FINAL, others=OTHERS, by_token=1)
    assert line.replace(b',"token_activations":[0.5,0.0,0.0]', b"", 1) != line
    assert re.sub(rb',"token_activations":\[[^]]*\]', b"", line) == LINE
    record = parse(line)
    assert isinstance(record, Record)
    kept = {
        feature.feature_id: feature.token_activations
        for details in record.solutions
        for features in details.reading("max").active_features_by_layer.values()
        for feature in features
        if isinstance(feature, PlacedFeature)
    }
    assert kept == {9: [0.5, 0, 0], 4: [0, 1, 0], 1: [0, 2.5], 7: [0, 0.125]}
    for asked in (0, 1, 2):
        settings = {"readings": READINGS, "tokens": True, "token_activations": asked}
        path = write_run(tmp_path / f"{asked}.jsonl", [line], identity((3, 8), questions=1, **settings))
        if asked == 1:
            assert verify(note_lines(path))
        else:
            with pytest.raises(LayerscopeError, match="token_activations of 1 features, the run's are of the first"):
                verify(note_lines(path))


@pytest.mark.parametrize("wrong", [b"[0.5,0]", b"[0.5,0,0.5]", b"[0,0.5,0]", b"[0.25,0,0]", b"[0.5,-1,0]"])
def test_activations_at_tokens_that_contradict_the_feature_are_named(wrong: bytes) -> None:
    line = record_line(QUESTION, SCORES, FINAL, others=OTHERS, by_token=1).replace(b"[0.5,0.0,0.0]", wrong)
    record = parse(line)
    assert isinstance(record, Record)
    with pytest.raises(NotARecordError, match="layer 3 has other token_activations"):
        check(record, 100, 16384)


def test_every_reading_is_read_by_its_name_and_alike() -> None:
    record = parse(LINE)
    assert isinstance(record, Record)
    for name, cells in {"final": FINAL, **OTHERS}.items():
        for solution, details in ((1, record.positive), (0, record.negative)):
            reading = details.reading(name)
            found = {
                layer: [(each.feature_id, each.activation) for each in features]
                for layer, features in reading.active_features_by_layer.items()
            }
            assert found == {layer: list(rows[solution]) for layer, rows in cells.items()}
            assert reading.active_feature_count_by_layer == {
                layer: len(rows[solution]) for layer, rows in cells.items()
            }


@pytest.mark.parametrize("names", [["max"], ["last-word", "prompt"], ["prompt"]])
def test_any_of_them_can_be_left_out(tmp_path: Path, names: list[str]) -> None:
    line = record_line(QUESTION, SCORES, FINAL, others={name: OTHERS[name] for name in names})
    path = run_of(tmp_path, [line, error_line(8, "sol1 is empty").line], ",".join(["final", *names]))
    assert "2 of 2 lines" in verify(note_lines(path))
    assert Run.open(path).manifest.readings == ("final", *names)
    record = parse(line)
    assert isinstance(record, Record)
    assert list(record.positive.readings) == ["final", *names]


def test_a_file_from_before_there_were_readings_has_the_final_one(tmp_path: Path) -> None:
    bare = (SCORES[0]._replace(tokens=None), SCORES[1]._replace(tokens=None))
    path = run_of(tmp_path, [record_line(QUESTION, bare, FINAL)], "final", tokens=False)
    edit_manifest(
        path, lambda manifest: [manifest["identity"]["settings"].pop(name) for name in ("readings", "tokens")]
    )
    assert "1 of 1 line" in verify(note_lines(path))
    settings = read_manifest(path).identity.settings
    assert (settings.readings, settings.tokens) == ("final", False)
    with pytest.raises(UsageError, match=r"--reading max: .*out\.jsonl has final\.\nName one of these, or run again"):
        Run.open(path).check_reading("max")
    with pytest.raises(UsageError, match=r"\nName one of these\.$"):  # no run can have it
        Run.open(path).check_reading("middle")


@pytest.mark.parametrize(
    ("readings", "tokens", "told"),
    [
        ("final", True, "the readings are final, last-word, max, prompt, the run's are final"),
        ("final,max,prompt", True, "the run's are final, max, prompt"),
        (READINGS, False, "tokens, which the run was not asked for"),
    ],
)
def test_a_line_with_other_parts_than_the_run_was_asked_for_is_found(
    tmp_path: Path, readings: str, tokens: bool, told: str
) -> None:
    with pytest.raises(LayerscopeError, match=f"line 1: .*{re.escape(told)}"):
        verify(run_of(tmp_path, [LINE], readings, tokens))


def test_without_a_manifest_both_solutions_must_have_the_same_readings(tmp_path: Path) -> None:
    record = orjson.loads(LINE)
    del record["negative_solution_details"]["other_readings"]["max"]
    path = tmp_path / "alone.jsonl"
    path.write_bytes(LINE + orjson.dumps(record) + b"\n")
    with pytest.raises(LayerscopeError, match="line 2: the readings are final, last-word, prompt"):
        list(RecordsFile.open(path).records())


def _of(record: Any, reading: str) -> Any:
    return record["positive_solution_details"]["other_readings"][reading]


def _at_3(record: Any) -> Any:
    """The features of `max` in layer 3."""
    return _of(record, "max")["active_features_by_layer"]["3"]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda r: _at_3(r)[1].update(feature_id=9), "listed twice (reading max)"),
        (lambda r: _at_3(r)[0].update(feature_id=16384), "from 0 to 16383"),
        (lambda r: _at_3(r)[0].update(token=3), "not among the solution's 3"),
        (lambda r: _at_3(r)[0].update(token_count=4), "not among the solution's 3"),
        (lambda r: _at_3(r)[0].update(token_count=0), "not among the solution's 3"),
        (lambda r: _at_3(r)[0].pop("token"), "missing required field `token`"),
        (lambda r: _at_3(r).reverse(), "strongest first (reading max)"),
        (lambda r: _of(r, "max")["active_feature_count_by_layer"].update({"3": 1}), "lists 2 features of 1 active"),
        (lambda r: _of(r, "last-word").update(token=3), "token 3 of last-word is not among the solution's 3"),
        (lambda r: _of(r, "last-word").pop("token"), "missing required field `token`"),
        (lambda r: _of(r, "last-word")["active_features_by_layer"].pop("8"), "the layers are 3, the run's are 3, 8"),
        (lambda r: _of(r, "prompt")["active_features_by_layer"]["3"][0].update(activation=0.5), "the same for both"),
        (lambda r: r["positive_solution_details"]["tokens"].append(""), "the tokens are not 3 that make the text"),
        (lambda r: r["positive_solution_details"]["tokens"].reverse(), "the tokens are not 3 that make the text"),
        (lambda r: _of(r, "max").update(active_features_by_layer={"3": [], "8": []},
                                        active_feature_count_by_layer={"3": 0, "8": 0}), "fewer features at all"),
    ],
)  # fmt: skip
def test_verify_finds_what_is_wrong_with_a_reading_and_names_it(tmp_path: Path, spoil: Any, told: str) -> None:
    record = orjson.loads(LINE)
    spoil(record)
    with pytest.raises(LayerscopeError, match=f"line 1: .*{re.escape(told)}"):
        verify(run_of(tmp_path, [orjson.dumps(record) + b"\n"]))
