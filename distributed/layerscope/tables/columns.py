"""The columns of the tables that a file's records make, and which of them a file has."""

import pyarrow as pa
from msgspec import UNSET

from layerscope.records.line.attributions import TERMS
from layerscope.records.reading.run import RecordsFile

FEATURES = pa.schema(
    {
        "example_id": pa.int32(),
        "solution": pa.dictionary(pa.int8(), pa.string()),  # positive, negative
        "layer": pa.int16(),
        "rank": pa.int32(),  # from 1, the strongest
        "feature_id": pa.int32(),
        "activation": pa.float32(),  # exactly the record's
        "active_feature_count": pa.int32(),  # of this solution and layer; above the highest rank, the list was cut
        "chosen": pa.bool_(),  # the model prefers this solution
        "correct": pa.bool_(),  # the model prefers the right solution: the record's model_is_correct
    }
)

OF_READINGS = pa.schema(
    {
        "reading": pa.dictionary(pa.int8(), pa.string()),  # final, last-word, max, prompt
        "token": pa.int32(),  # of the solution's, where the feature is active (max: strongest); null for prompt
        "token_count": pa.int32(),  # of max, at how many of the solution's tokens it is active
    }
)
"""Further columns of features, where a file has more than the reading `final`."""

QUESTIONS = pa.schema(
    {
        "example_id": pa.int32(),
        "question": pa.string(),
        "label": pa.int8(),
        "model_is_correct": pa.bool_(),  # by log-likelihood (acc)
        "model_is_correct_per_character": pa.bool_(),  # by log-likelihood per character (acc_norm)
        "margin": pa.float32(),  # log-likelihood(positive) - log-likelihood(negative)
        "positive_text": pa.string(),
        "positive_log_likelihood": pa.float32(),
        "positive_token_count": pa.int32(),
        "positive_final_token": pa.string(),
        "negative_text": pa.string(),
        "negative_log_likelihood": pa.float32(),
        "negative_token_count": pa.int32(),
        "negative_final_token": pa.string(),
        "error": pa.string(),  # why the question could not be scored; all else but example_id is null then
    }
)

OF_OTHERS = pa.schema(
    {
        "solutions": pa.int16(),  # how many the question has
        "margin_to_mean": pa.float32(),  # log-likelihood(positive) - the mean of all wrong solutions' log-likelihoods
        "others": pa.string(),  # JSON: index, text, log_likelihood and token_count of the wrong ones but the strongest
    }
)
"""Further columns of questions, where any has more than two solutions."""

OF_METADATA = pa.schema({"metadata": pa.string()})  # JSON
"""A further column of questions."""

OF_SOLUTIONS = pa.schema({"solution_index": pa.int16()})  # of features of all solutions: place in the question file

_GROUP = pa.dictionary(pa.int8(), pa.string())  # positive, negative (a solution's own tokens), common, prompt

ATTRIBUTIONS = pa.schema(
    {
        "example_id": pa.int32(),
        "tokens": _GROUP,
        "layer": pa.int16(),
        "rank": pa.int32(),  # from 1, the largest
        "feature_id": pa.int32(),
        "attribution": pa.float32(),  # exactly the record's, as all that follow
        "activation": pa.float32(),  # at `token`
        "token": pa.int32(),  # of the solution's or the prompt's, where the largest share of it is
    }
)

ATTRIBUTION_TERMS = pa.schema(
    {"example_id": pa.int32(), "tokens": _GROUP, "layer": pa.int16(), **dict.fromkeys(TERMS, pa.float32())}
)
"""What the attributions of each layer and group of tokens are a part of."""


def features_schema(file: RecordsFile) -> pa.Schema:
    """Of the table of features of a file."""
    more = ((OF_READINGS, len(file.readings) > 1), (OF_SOLUTIONS, file.all_solutions))
    return pa.unify_schemas([FEATURES, *(schema for schema, there in more if there)])


_IN_LISTS = ("feature_id", "activation", "token", "token_count")


def lists_schema(of_rows: pa.Schema) -> pa.Schema:
    """The columns of a table of features with a row for every list, from those with a row for every feature.

    A feature's rank is its place in the list; a list without features is there too.
    """
    return pa.schema(
        [
            field.with_type(pa.list_(field.type)) if field.name in _IN_LISTS else field
            for field in of_rows
            if field.name != "rank"
        ]
    )


def questions_schema(file: RecordsFile) -> pa.Schema:
    """Of the table of questions of a file."""
    more = ((OF_OTHERS, file.first is not None and file.first.others is not UNSET), (OF_METADATA, file.has_metadata))
    return pa.unify_schemas([QUESTIONS, *(schema for schema, there in more if there)])
