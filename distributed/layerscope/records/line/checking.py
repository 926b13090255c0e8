"""What a record must be besides having every name and type right; for whoever looks closely."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from msgspec import UNSET

from layerscope.records.line.attributions import GROUPS, Attributions
from layerscope.records.line.dictionaries import names_of, seen_by
from layerscope.records.line.readings import Feature, PlacedFeature
from layerscope.records.line.record import NotARecordError, Record, SolutionDetails, strongest_wrong

_ROUNDING = 1e-6  # of float32, relative


def check_parts(
    record: Record,
    layers: Sequence[int],
    readings: Sequence[str],
    tokens: bool,
    all_solutions: bool,
    token_activations: int | None = None,
    attributed: bool = False,
    dictionaries: Sequence[str] = (),
) -> None:
    """Whether a record has the layers and readings of its run, in their order, and tokens or none.

    Args:
        all_solutions: whether the run recorded the features of every wrong solution, not of the strongest alone.
        token_activations: of how many features of each list of `max` all tokens' activations are there; None for any.
        attributed: whether the run has attributions.
        dictionaries: names of those that it has beside the first.

    Raises:
        NotARecordError: it has others.
    """
    if any((other.details is not None) != all_solutions for other in record.more):
        raise NotARecordError(f"one of the others has {'no features' if all_solutions else 'features'}")
    if len(record.attributions) != (len(GROUPS) if attributed else 0):
        raise NotARecordError(f"there are {'not all' if attributed else 'unasked'} attributions")
    for group in record.attributions.values():
        if list(group.lists) != layers or list(group.terms) != layers:
            raise NotARecordError(f"the layers of attributions are {_named(group.lists)}, the run's {_named(layers)}")
    for details in record.recorded:
        if list(names_of(details)) != list(dictionaries):
            named = f"{_named(names_of(details)) or 'none'}, the run's are {_named(dictionaries) or 'none'}"
            raise NotARecordError(f"the other dictionaries are {named}")
        if list(details.readings) != list(readings):
            raise NotARecordError(f"the readings are {_named(details.readings)}, the run's are {_named(readings)}")
        if (details.tokens is not UNSET) != tokens:
            raise NotARecordError(
                f"a solution has {'no tokens' if tokens else 'tokens, which the run was not asked for'}"
            )
        for reading in details.readings.values():
            for by_layer in (reading.active_features_by_layer, reading.active_feature_count_by_layer):
                if list(by_layer) != layers:
                    raise NotARecordError(f"the layers are {_named(by_layer)}, the run's are {_named(layers)}")
        if token_activations is not None:
            _check_token_activations(details, token_activations)
    for name in dictionaries:
        try:
            check_parts(seen_by(record, name), layers, readings, tokens, all_solutions, token_activations)
        except NotARecordError as error:
            raise NotARecordError(f"{error} (dictionary {name})") from error


def check_alike(record: Record) -> None:
    """Whether all solutions of a record that has no manifest have the same parts.

    Raises:
        NotARecordError: they have not.
    """
    own, attributed = record.positive, bool(record.attributions)
    layers, tokens = list(own.active_features_by_layer), own.tokens is not UNSET
    every = any(other.details is not None for other in record.more)
    check_parts(record, layers, list(own.readings), tokens, every, None, attributed, names_of(own))


def _check_token_activations(details: SolutionDetails, wanted: int) -> None:
    if details.other_readings is UNSET or details.other_readings.max is UNSET:
        return
    for layer, features in details.other_readings.max.active_features_by_layer.items():
        there = [each.token_activations is not UNSET for each in features]
        if there != [place < wanted for place in range(len(features))]:
            raise NotARecordError(
                f"layer {layer} has token_activations of {sum(there)} features, the run's are of the first {wanted}"
            )


def check(
    record: Record,
    top_k: int | Literal["all"] | None,
    d_sae: int,
    d_sae_of_others: Mapping[str, int] = {},
    against_means: bool = False,
) -> None:
    """Checks a record against itself: what can be wrong though every name and type is right.

    Args:
        top_k: how many features a list has at most; None where nobody knows.
        d_sae: every feature's id is below it.
        d_sae_of_others: the same of further dictionaries, by name.
        against_means: whether attributions are, so that a silent feature has one.

    Raises:
        NotARecordError: what is off.
    """
    for details in record.recorded:
        for name, reading in details.readings.items():
            for layer, features in reading.active_features_by_layer.items():
                try:
                    _check_features(features, layer, reading.active_feature_count_by_layer[layer], top_k, d_sae)
                except NotARecordError as error:
                    raise NotARecordError(f"{error}{'' if name == 'final' else f' (reading {name})'}") from error
        _check_tokens(details)
    for name, group in record.attributions.items():
        _check_attributions(name, group, top_k, d_sae, against_means)
    check_prompt(record)
    for name, width in d_sae_of_others.items():
        try:
            check(seen_by(record, name), top_k, width)
        except NotARecordError as error:
            raise NotARecordError(f"{error} (dictionary {name})") from error
    scores = [solution.score for solution in record.in_order]
    if record.negative_index != strongest_wrong(scores, record.label):
        raise NotARecordError("the negative solution is not the strongest of the wrong ones")
    if record.model_is_correct != record.correct():
        raise NotARecordError("model_is_correct does not follow from the log-likelihoods")


def _check_features(
    features: Sequence[Feature], layer: int, count: int, top_k: int | Literal["all"] | None, d_sae: int
) -> None:
    wanted = min(count, len(features) if top_k is None else count if top_k == "all" else top_k)
    if len(features) != wanted:
        raise NotARecordError(f"layer {layer} lists {len(features)} features of {count} active ones")
    ids = {feature.feature_id for feature in features}
    if len(ids) < len(features):
        raise NotARecordError(f"a feature of layer {layer} is listed twice")
    if ids and not (min(ids) >= 0 and max(ids) < d_sae):
        raise NotARecordError(f"a feature_id of layer {layer} is not from 0 to {d_sae - 1}")
    order = [(-feature.activation, feature.feature_id) for feature in features]
    if order != sorted(order) or any(each.layer != layer for each in features):
        raise NotARecordError(f"the features of layer {layer} are not its own, strongest first")


def _check_attributions(
    name: str, group: Attributions, top_k: int | Literal["all"] | None, d_sae: int, against_means: bool
) -> None:
    for layer, features in group.lists.items():
        where = f"of layer {layer} ({name} tokens)"
        order = [(-abs(feature.attribution), feature.feature_id) for feature in features]
        if order != sorted(order) or any(each.layer != layer or not each.attribution for each in features):
            raise NotARecordError(f"the attributions {where} are not its own, largest first, none of them 0")
        if not against_means and not all(feature.activation for feature in features):
            raise NotARecordError(f"the attributions {where} have a feature that is silent")
        ids = {feature.feature_id for feature in features}
        most = top_k if isinstance(top_k, int) else d_sae
        if len(ids) < len(features) or max(ids, default=0) >= d_sae or len(ids) > most:
            raise NotARecordError(f"the attributions {where} name a feature twice, one that is not, or too many")
        terms = group.terms[layer]
        parts = terms.features, terms.bias, terms.error, terms.skip
        if abs(sum(parts) - terms.total) > _ROUNDING * sum(map(abs, (*parts, terms.total))):
            raise NotARecordError(f"the terms of attribution {where} do not sum to their total")


def _check_tokens(details: SolutionDetails) -> None:
    """What is said of single tokens of a solution."""
    others, count = details.other_readings, details.token_count
    if details.tokens is not UNSET and (len(details.tokens) != count or "".join(details.tokens) != details.text):
        raise NotARecordError(f"the tokens are not {count} that make the text")
    if others is UNSET:
        return
    if others.last_word is not UNSET and others.last_word.token >= count:
        raise NotARecordError(f"token {others.last_word.token} of last-word is not among the solution's {count}")
    if others.max is UNSET:
        return
    for layer, features in others.max.active_features_by_layer.items():
        if not all(_at_its_tokens(each, count) for each in features):
            raise NotARecordError(f"a feature of layer {layer} has other token_activations than it says of itself")
        if any(each.token >= count or not 1 <= each.token_count <= count for each in features):
            raise NotARecordError(f"a token of layer {layer} (reading max) is not among the solution's {count}")
        if others.max.active_feature_count_by_layer[layer] < details.active_feature_count_by_layer[layer]:
            raise NotARecordError(f"layer {layer} has fewer features at all tokens than at the final one")


def _at_its_tokens(feature: PlacedFeature, count: int) -> bool:
    """Whether its activations at the solution's tokens, if they are kept, are so many and agree with all else."""
    values = feature.token_activations
    if values is UNSET:
        return True
    return (
        len(values) == count
        and min(values) >= 0
        and values.index(max(values)) == feature.token
        and values[feature.token] == feature.activation
        and count - values.count(0) == feature.token_count
    )


def check_prompt(record: Record) -> None:
    """The control: what is read before the solutions is the same for both, where a run reads it.

    Raises:
        NotARecordError: it is not.
    """
    first, *others = (details.readings.get("prompt") for details in record.recorded)
    if any(other != first for other in others):
        raise NotARecordError("the solutions have different features at the prompt, which is the same for both")


def _named(names: Iterable[object]) -> str:
    return ", ".join(map(str, names))
