"""From the settings and the machines there are to a job: the one step in which everything is settled."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from layerscope.config import STANDARD_INPUT, Config, option, parse_baseline, parse_shard
from layerscope.errors import LayerscopeError, UsageError
from layerscope.formatting import count_of
from layerscope.hub.repository import Repository, open_repository
from layerscope.models.spec import ModelSpec, read_spec, tokenizer_path
from layerscope.planning.job import Job
from layerscope.planning.limits import limits
from layerscope.planning.needs import estimate
from layerscope.planning.node import Node, gpu_types
from layerscope.planning.output import settle_output
from layerscope.planning.placement import Placement
from layerscope.planning.placing import place
from layerscope.planning.saes import Dictionary, acts_at, take_dictionaries
from layerscope.planning.settings import (
    Numerics,
    numeric,
    questions_wanted,
    settle_crew,
    settle_numerics,
    settle_reading,
    shots_wanted,
)
from layerscope.questions.kept_plans import kept_plan
from layerscope.questions.opening import open_source
from layerscope.questions.pairs import PairTokenizer
from layerscope.questions.plan import Plan, make_plan
from layerscope.questions.prompts import Prompt
from layerscope.questions.reading import Reading
from layerscope.questions.selection import select_questions
from layerscope.questions.shots import Shots, draw_shots
from layerscope.questions.standard_input import keep_standard_input, records_of_copy
from layerscope.records.manifest.manifest import read_manifest
from layerscope.records.means import find_means
from layerscope.standin import standin_folder


def prepare(config: Config, nodes: Sequence[Node]) -> Job:
    """Settles a job on the machines there are: reads names, sizes, questions and tokeniser, and no weights.

    Raises:
        LayerscopeError: whatever would keep the run from starting, or from ending well.
    """
    output = settle_output(config, nodes)
    if config.dataset == STANDARD_INPUT:
        kept = keep_standard_input(output.records, _began_with(output.files[0]), config.overwrite)
        config = replace(config, dataset=str(kept))
    selection, warnings = select_questions(
        questions_wanted(config), numeric(config.num_samples), config.seed, config.strip_solutions
    )
    model = _model(config)
    spec = read_spec(model)
    dictionaries = take_dictionaries(config, model, spec)
    first = dictionaries[0]
    crew = settle_crew(config, nodes, spec.d_model)
    numerics = settle_numerics(config, nodes, crew)
    reading = _reading(config, settle_reading(config, model, selection.source.solutions), dictionaries, spec)
    tokenizer = _tokenizer(model, spec, reading.prompt)
    settings = selection, tokenizer, numerics.batch_tokens, reading.attribution is None
    plan = kept_plan(*settings, lambda: make_plan(*settings, limits().cpus))
    shard = parse_shard(config.shard)
    rows = reading.rows(int(np.diff(plan.starts).max(initial=0)), numerics.batch_tokens)
    of_question = _rows_per_question(plan, reading)
    attributed = reading.acts_at if reading.attribution is not None else None
    sizes = [(each.site, each.d_sae) for each in dictionaries]
    needs = estimate(spec, first.layers, sizes, numerics, rows, of_question, attributed)
    placement = place(crew, nodes, needs)
    warnings += [*(told for each in dictionaries for told in each.warnings), *_warnings_of_the_plan(plan)]
    return Job(
        standin=config.standin,
        model=model,
        spec=spec,
        dictionaries=dictionaries,
        selection=selection,
        metadata=None if config.metadata == "none" else config.metadata,
        seed=config.seed,
        shard=shard,
        reading=reading,
        plan=plan.part(*shard),
        numerics=numerics,
        crew=crew,
        needs=needs,
        placement=placement,
        patience=config.patience,
        output=output,
        software=dict(nodes[0].software),
        warnings=(*warnings, *_warnings_of_nodes(nodes, placement, numerics)),
    )


def _reading(config: Config, settled: Reading, dictionaries: Sequence[Dictionary], spec: ModelSpec) -> Reading:
    """With what the dictionaries read and decode to, and the files that the settings name."""
    first = dictionaries[0]
    sites = [each.site for each in dictionaries]
    writes = acts_at(first, spec) if settled.attribution is not None else first.site
    baseline = parse_baseline(config.attribution_baseline)
    return replace(
        settled,
        sites=tuple(dict.fromkeys([*sites, writes])),
        writes=writes if writes != first.site else None,
        dictionaries=tuple(each.name for each in dictionaries[1:]),
        prompt=replace(settled.prompt, shots=_shots(config)) if config.shots else settled.prompt,
        means=find_means(baseline, first.layers, first.d_sae) if baseline else settled.means,
    )


def _warnings_of_the_plan(plan: Plan) -> Iterator[str]:
    if plan.among_shots:
        questions = count_of(plan.among_shots, "question")
        yield f"{questions} among the examples themselves: the next one drawn stands there in their stead."
    if plan.unscorable:
        yield f"{count_of(plan.unscorable, 'question')} cannot be scored; the error lines will say why."


def _began_with(records: Path) -> str:
    """The copy of standard input that the run of an output file reads; empty where it reads none, or is none."""
    try:
        name = read_manifest(records).identity.questions.get("dataset", "")
    except LayerscopeError:  # opening the output file says what it is
        return ""
    return name if records_of_copy(Path(name)) else ""


def _rows_per_question(plan: Plan, reading: Reading) -> float:
    """Rows of the residual stream that a question makes on average."""
    return reading.rows(1, round(plan.solution_tokens / max(1, len(plan.order))))


def _model(config: Config) -> Repository:
    if config.standin:
        return open_repository(str(standin_folder() / "model"))
    return open_repository("google/gemma-2-2b" if config.model == "auto" else config.model, config.revision)


def _shots(config: Config) -> Shots:
    source = open_source(shots_wanted(config))
    return draw_shots(source, config.shots, config.seed, f"--shots-from {config.shots_from}", config.strip_solutions)


def _tokenizer(model: Repository, spec: ModelSpec, prompt: Prompt) -> PairTokenizer:
    tokenizer = PairTokenizer(tokenizer_path(model), spec.context, prompt)
    if tokenizer.bos_id != spec.bos_id:
        raise UsageError(
            f"{model.name}: BOS is token {tokenizer.bos_id} of its tokeniser and {spec.bos_id} of its model."
        )
    return tokenizer


def _warnings_of_nodes(nodes: Sequence[Node], placement: Placement, numerics: Numerics) -> Iterator[str]:
    for node in nodes:
        if node.trouble:
            yield f"On {node.name} {node.trouble}: it computes without."
    narrow = [name for name in ("dtype", "sae_dtype") if getattr(numerics, name) == "bfloat16"]
    slow = {node.processor or "a CPU" for node in nodes if placement.device == "cpu" and not node.bfloat16}
    if narrow and slow:
        options = " and ".join(f"{option(name)} float32" for name in narrow)
        yield (
            f"Not known to multiply bfloat16 numbers itself: {', '.join(sorted(slow))}. {options} may be several times "
            "as fast there, in twice the memory."
        )
    if placement.device == "cuda" and len(placement.kinds) > 1:
        types = ", ".join(f"{count} x {name}" for name, count in sorted(gpu_types(nodes).items()))
        yield f"GPUs of several types ({types}) give other last digits; --gpu-type keeps to one."
