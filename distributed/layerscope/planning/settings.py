"""The settings of a run made concrete: here, once, every `auto` is decided.

Behind this nobody reads the command line's settings: what `plan` prints, what the manifest says and what the actors get
is what is settled here. What depends on the nodes that are there just now, and so may be decided anew as they come and
go (how many actors, and where), is the placement's; it starts from `Crew`, in which None means as many as suit.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from layerscope.config import (
    CHAT,
    Config,
    option,
    parse_columns,
    parse_layers,
    parse_metadata,
    parse_prompt,
    parse_readings,
    parse_shard,
)
from layerscope.errors import LayerscopeError, UsageError
from layerscope.formatting import ranges
from layerscope.hub.repository import Repository
from layerscope.models.chat import chat_prompt
from layerscope.planning.node import FIRST_WITH_BFLOAT16, Node
from layerscope.questions.benchmarks import find_benchmark
from layerscope.questions.opening import BUNDLED, Wanted
from layerscope.questions.prompts import Prompt
from layerscope.questions.reading import Reading

_NAME_OF_QUESTIONS, _NAME_OF_LAYERS = 60, 60  # characters in a file's name
_TINY_D_MODEL = 256  # below this a matrix product is too small to be worth a second thread


@dataclass(frozen=True)
class Numerics:
    """The settings that change numbers."""

    dtype: str
    sae_dtype: str
    batch_tokens: int
    threads: int | None
    """Torch threads of an actor on a CPU; None on a GPU."""
    top_k: int | None
    """None records every active feature."""


@dataclass(frozen=True)
class Crew:
    """The actors that are asked for."""

    device: str
    """`cuda` or `cpu`."""
    gpu_type: str
    """The one type of GPU that is to be used; empty for any."""
    threads: int
    """Of each actor on a CPU."""
    gemma_actors: int | None
    gemma_gpus: int | None
    encoder_gpus: int | None
    layer_blocks: int | None
    encoders_per_block: int | None


def dataset(config: Config) -> str:
    """Where the questions come from."""
    if config.dataset != "auto":
        return config.dataset
    return "bundled" if config.standin else "piqa"


def questions_wanted(config: Config) -> Wanted:
    """Which questions, and how they are read.

    Raises:
        UsageError: it is a known benchmark, and columns or a configuration are named too.
    """
    name = dataset(config)
    benchmark = find_benchmark(name)
    if benchmark and (config.config or config.columns):
        raise UsageError(f"--dataset {name} says itself which configuration and columns are read: leave them out.")
    split = benchmark.split if benchmark else "validation"
    return Wanted(
        name,
        config.split if config.split != "auto" else split,
        config.config,
        config.dataset_revision,
        parse_columns(config.columns),
        config.first_label,
        parse_metadata(config.metadata),
    )


def shots_wanted(config: Config) -> Wanted:
    """The same for the questions that examples are taken from: read as the others are, of another split."""
    name, benchmark = config.shots_from, find_benchmark(config.shots_from)
    same = name == dataset(config)
    split = benchmark.shots if benchmark else "train"
    return Wanted(
        name,
        split,
        config.config if same else "",
        config.dataset_revision if same else Wanted.revision,
        parse_columns(config.columns),
        config.first_label,
        option="--shots-from",
        usual_split=split,
    )


def output_file(config: Config) -> str:
    """Where the records go: by default into the working folder, under a name that says what is asked for."""
    if config.output_file != "auto":
        return config.output_file
    questions = dataset(config)
    if questions not in ("piqa", *BUNDLED):
        questions = (
            re.sub(r"[^A-Za-z0-9_.-]+", "_", Path(questions).stem)[:_NAME_OF_QUESTIONS].lstrip("-.") or "questions"
        )
    layers = parse_layers(config.layers)
    told = "all_layers" if layers is None else f"layers_{ranges(layers)}"[:_NAME_OF_LAYERS]
    shard, shards = parse_shard(config.shard)
    part = f"_shard_{shard}_of_{shards}" if shards > 1 else ""
    top = "all" if config.top_k == "all" else f"top{config.top_k}"
    return f"{questions}_sae_{top}_{told}{part}.jsonl"


def settle_reading(config: Config, model: Repository, solutions: int) -> Reading:
    """How questions become texts, and what is read of them.

    Args:
        solutions: of the question with the most.

    Raises:
        UsageError: a chat template is asked for that the model has not, or cannot be used.
    """
    asked, between = config.prompt, config.solution_separator
    if (benchmark := find_benchmark(dataset(config))) and asked == Config.prompt:
        asked, between = benchmark.prompt, benchmark.separator if between == "auto" else between
    template, separator = parse_prompt(asked, between)
    chat = template == CHAT
    prompt = chat_prompt(model, config.system_prompt, separator) if chat else Prompt(template, separator)
    residuals = None if config.residuals == "off" else config.residuals
    attribution = None if config.attribution == "off" else config.attribution
    recorded = solutions if config.all_solutions else 2
    return Reading(
        parse_readings(config.readings),
        config.tokens,
        prompt,
        residuals,
        config.token_activations,
        solutions=recorded,
        more=solutions > 2,
        attribution=attribution,
    )


def numeric(setting: int | str) -> int | None:
    """A number, or None for one that is `all` or `auto`."""
    return setting if isinstance(setting, int) else None


def settle_crew(config: Config, nodes: Sequence[Node], d_model: int) -> Crew:
    """What actors are asked for.

    Threads change rounding, so they never depend on how many actors there are.

    Raises:
        LayerscopeError: a GPU is asked for and there is none.
    """
    fewest_cpus = min(node.cores for node in nodes)
    return Crew(
        device=_device(config, nodes),
        gpu_type=config.gpu_type,
        threads=numeric(config.threads) or (1 if d_model <= _TINY_D_MODEL else fewest_cpus),
        gemma_actors=numeric(config.gemma_actors),
        gemma_gpus=numeric(config.gemma_gpus),
        encoder_gpus=numeric(config.encoder_gpus),
        layer_blocks=numeric(config.layer_blocks),
        encoders_per_block=numeric(config.encoders_per_block),
    )


def settle_numerics(config: Config, nodes: Sequence[Node], crew: Crew) -> Numerics:
    """The settings that change numbers.

    Raises:
        LayerscopeError: bfloat16 is asked for and a GPU has none.
    """
    on_gpus = crew.device == "cuda"
    older = [gpu for node in nodes for gpu in node.gpus if on_gpus and gpu.capability < FIRST_WITH_BFLOAT16]
    for name, asked in (("dtype", config.dtype), ("sae_dtype", config.sae_dtype)):
        if older and asked == "bfloat16":
            version = ".".join(map(str, older[0].capability))
            raise LayerscopeError(
                f"{option(name)} is bfloat16, and {older[0].name} has no such arithmetic (its compute capability is "
                f"{version}; 8.0 is the first with it).\nUse {option(name)} float32, or other GPUs with --gpu-type."
            )
    return Numerics(
        dtype=config.dtype if config.dtype != "auto" else "bfloat16" if on_gpus and not older else "float32",
        sae_dtype=config.sae_dtype,
        batch_tokens=numeric(config.batch_tokens) or _batch_tokens(on_gpus, config.attribution != "off"),
        threads=None if on_gpus else crew.threads,
        top_k=numeric(config.top_k),
    )


def _batch_tokens(on_gpus: bool, attributed: bool) -> int:
    """With a way back every layer's states are kept until it is gone: a tenth of a megabyte a token and layer."""
    if on_gpus:
        return 2048 if attributed else 8192
    return 1024


def _device(config: Config, nodes: Sequence[Node]) -> str:
    if any(node.gpus for node in nodes):
        return "cpu" if config.device == "cpu" else "cuda"
    if config.device == "cuda" or config.gpu_type:
        troubles = "".join(f"\nOn {node.name} {node.trouble}." for node in nodes if node.trouble)
        raise LayerscopeError(
            f"No node has a GPU that can be used (asked for by --device or --gpu-type).{troubles}\n"
            "Leave the option out to compute on CPUs, or add a node with a GPU, its driver and a torch built for CUDA."
        )
    return "cpu"
