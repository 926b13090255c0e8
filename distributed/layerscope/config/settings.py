"""The settings of a run: one dataclass is the command line, its help text and the manifest's settings.

It checks what can be checked from a value alone; what needs files, the hub or a cluster is checked where it is read.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from layerscope.config.dictionaries import L0, WIDTH, parse_dictionaries
from layerscope.config.options import Common, OfModel, OfNumbers, OfOutput, OfQuestions, OfWork, Shown, option
from layerscope.config.values import (
    CHAT,
    parse_baseline,
    parse_columns,
    parse_layers,
    parse_metadata,
    parse_prompt,
    parse_readings,
    parse_shard,
)
from layerscope.errors import UsageError

Count = int | Literal["all"]
AutoCount = int | Literal["auto"]
ResidualFormat = Literal["float16", "float32"]
AttributionRule = Literal["gradient", "relp"]
"""How the margin is led back to the residual stream."""
Site = Literal["resid_post", "attn_out", "mlp_out", "transcoder"]
"""The tensor of a decoder layer that an SAE reads."""

MAX_BATCH_TOKENS = 1_000_000
_MOST = (1 << 31) - 1  # of anything counted: what computes takes numbers of 64 bits, and no one means these
_COUNTS = (
    "num_samples",
    "top_k",
    "batch_tokens",
    "threads",
    "gemma_actors",
    "gemma_gpus",
    "layer_blocks",
    "encoders_per_block",
    "writers",
    "patience",
)


@dataclass(frozen=True)
class Config:
    """Score both solutions of every question with Gemma and record the strongest SAE features of every layer."""

    model: Common[str] = "auto"
    """Gemma 2 model: a repository on the hub, or a folder in the same format (safetensors only). auto is
    google/gemma-2-2b, or what the stand-in brings."""
    revision: OfModel[str] = "main"
    """Revision of the model on the hub: a branch, a tag or a commit. The manifest keeps the commit."""
    sae_repo: OfModel[str] = "auto"
    """SAEs: a repository on the hub, or a folder, in the layout of Gemma Scope, Gemma Scope 2 or SAELens. auto is the
    suite that belongs to the model: google/gemma-scope-2b-pt-res for google/gemma-2-2b."""
    sae_revision: OfModel[str] = "main"
    """Revision of the SAEs on the hub, in the same way."""
    sae_repo_id: OfModel[str] = ""
    """The repository on the hub that --sae-repo is a copy of (google/gemma-scope-2b-pt-res), so that its features keep
    their pages on Neuronpedia. A snapshot folder of the hub's cache says so itself."""
    site: OfModel[Site | Literal["auto"]] = "auto"
    """Where in a layer the SAEs read: resid_post (its output), attn_out, mlp_out or transcoder (what one of the MLP
    reads). auto is resid_post, or the only site that --sae-repo has."""
    sae_width: OfModel[str] = "auto"
    """Width of the SAEs, as their folders name it (16k, 65k, 1m). auto is 16k, or the only one there is."""
    sae_l0: OfModel[str] = "canonical"
    """Average L0 of the SAE of each layer: canonical (nearest to 100; of Gemma Scope 2 medium), a number, min, max,
    nearest:60, or a name (small, medium, big, medium_affine; of SAELens the folder's). layerscope saes shows them."""
    dictionary: OfModel[tuple[str, ...]] = ()
    """Further SAEs in the same pass, once for each set: NAME=REPO, and behind that what is wanted of site=, width=, l0=
    (as --sae-l0 has it), revision= and id= (as --sae-repo-id). REPO auto is where the first SAEs lie, or those of this
    site do: wide=auto,width=65k. They take the same layers, and stand in the records under other_dictionaries. A second
    set of 16k takes about a quarter more time; plan says the memory of each. random=FOLDER, made by
    layerscope.write_random_dictionary, is the baseline of random features that fire as often."""
    baseline_dictionary: OfModel[bool] = False
    """Take random SAEs along, called random: as many features, from --seed, that fire as often at the final token. A
    pilot of up to 300 of the questions, beside the output file in NAME.random, says how often that is."""
    layers: Common[str] = "all"
    """Decoder layers: all, or numbers and ranges such as 0-25 or 8,20."""
    dataset: Common[str] = "auto"
    """Questions: piqa, arc_easy, arc_challenge, hellaswag, winogrande, copa, mmlu or mmlu:SUBJECT, boolq or blimp:NAME
    (from the hub), bundled or bundled-middle (with layerscope; in the latter the deciding word is in the middle), a
    file (JSON lines, a JSON array, CSV, TSV, Parquet; text also as .gz or .zst), - for standard input, a folder from
    save_to_disk, or a data set of the hub (owner/name). auto is piqa, and bundled for --standin."""
    split: OfQuestions[str] = "auto"
    """Split of a data set on the hub or from save_to_disk. auto is validation, and of a known benchmark the one that it
    is measured on."""
    config: OfQuestions[str] = ""
    """Configuration of a data set on the hub, if it has several."""
    columns: OfQuestions[str] = ""
    """Which columns hold what: goal=question,sol1=good,sol2=bad,label=answer (choices=options for one with all
    solutions, sol3=… for more; label=sol1 where the first is always right). Common layouts are known without."""
    first_label: OfQuestions[Literal["auto", "0", "1"]] = "auto"
    """What number the first solution has in labels that are numbers. auto sees it by all of them."""
    dataset_revision: OfQuestions[str] = "main"
    """Revision of the questions on the hub, in the same way."""
    metadata: OfQuestions[str] = "none"
    """Other columns that go into the records and exports as metadata: none, all, or names such as id,category."""
    num_samples: Common[Count] = 50
    """How many questions, drawn by --seed; all takes every one."""
    seed: OfQuestions[int] = 0
    """Which questions are drawn, and which examples; the draw does not depend on versions of anything."""
    shots: OfQuestions[int] = 0
    """How many examples with their right solutions stand before each question; 0 for none."""
    shots_from: OfQuestions[str] = ""
    """Where --shots come from: a file in any of the layouts that --dataset takes, or a data set (its train split)."""
    top_k: Common[Count] = 100
    """How many of the strongest features to record per layer and solution; all records every active one."""
    dtype: OfNumbers[Literal["auto", "float32", "bfloat16"]] = "auto"
    """Number format of the model. auto is bfloat16 on a GPU and float32 on a CPU."""
    sae_dtype: OfNumbers[Literal["float32", "bfloat16"]] = "float32"
    """Number format of the SAE encoders."""
    batch_tokens: OfNumbers[AutoCount] = "auto"
    """Tokens per batch, shared ones counted once. auto is 8192 on a GPU (2048 where it attributes) and 1024
    on a CPU."""
    threads: OfNumbers[AutoCount] = "auto"
    """Torch threads of each actor on a CPU; they change rounding. auto is every core, or one for a tiny model."""
    readings: Common[str] = "final"
    """Which of a solution's tokens are encoded, with commas between: final (its last token, always in the record),
    last-word (the last with a letter or digit), max (each feature's strongest activation over all of them) and prompt
    (the last token before the solution, a control)."""
    tokens: OfNumbers[bool] = False
    """Record each solution's tokens too: texts that joined are the solution."""
    token_activations: OfNumbers[int] = 0
    """Of max, record the activation at every token too, for so many of the strongest features of each layer and
    solution; 0 for none."""
    residuals: OfNumbers[ResidualFormat | Literal["off"]] = "off"
    """Keep the residual stream too, in this number format, where each reading but max takes it: beside the output file,
    in the folder NAME.residuals with one .npy file for every layer."""
    all_solutions: OfNumbers[bool] = False
    """Of questions with more than two solutions, record the features of every wrong one, not of the strongest alone."""
    attribution: Annotated[OfNumbers[AttributionRule | Literal["off"]], Shown(alone="gradient")] = "off"
    """Attribute each question's margin to features, over all tokens of its solutions and its prompt: gradient, which
    stands for no value too, takes the margin's gradient where the SAEs write, relp the relevance by RelP's rules. It
    takes more than twice as long."""
    attribution_baseline: OfNumbers[str] = "zero"
    """What a feature's attribution is against: zero (that it is silent), or mean:FILE (what it is on average, by a file
    of layerscope.write_means)."""
    prompt: OfNumbers[str] = r"Question: {goal}\nSolution:"
    """What stands before a solution, with {goal} for the question and \\n for a new line; chat is the chat template of
    the model's tokeniser, with the question as the user's message and the solution as the answer."""
    solution_separator: OfNumbers[str] = "auto"
    """What stands between the prompt and the solution, and is scored with it. auto is one space, and nothing for
    --prompt chat."""
    system_prompt: OfNumbers[str] = ""
    """System text of --prompt chat, where the template has a place for one."""
    strip_solutions: OfNumbers[bool] = False
    """Score and record the solutions without surrounding white space."""
    output_file: Common[str] = "auto"
    """Where the records go, a line each; compressed with a name that ends in .zst or .gz. With a name that ends in
    .json the lines go to .jsonl beside it, and the finished run writes the array too. s3://bucket/run/ is a folder in
    object storage. auto is a name in the working folder that says what is asked for, as
    piqa_sae_top100_all_layers.jsonl."""
    overwrite: OfOutput[bool] = False
    """Start anew where the output file holds a run already."""
    retry_errors: OfOutput[bool] = False
    """Compute the questions with an error line once more before going on; their lines change in one atomic step."""
    shard: OfOutput[str] = "1/1"
    """Part of the job: 3/16 is the third of sixteen. The shards' files, one after the other, are the whole run's."""
    writers: OfWork[AutoCount] = 1
    """How many write at once, each its own part of the job: x-00003-of-00016.jsonl.zst is the third of sixteen of
    --output-file x.jsonl.zst; of a folder (with / at its end) they lie there. Each works with actors of its own, on
    nodes of its own where there are enough. auto is one for four GPUs."""
    timeline: OfOutput[str] = ""
    """File for a timeline of the run (a Chrome trace): who computes what when, and who waits."""
    device: Common[Literal["auto", "cuda", "cpu"]] = "auto"
    """What the actors compute on. auto is cuda where a node has a GPU."""
    gpu_type: OfWork[str] = ""
    """Use GPUs of this type alone (H100, A100-80G, …): mixed types give other last digits."""
    gemma_actors: OfWork[AutoCount] = "auto"
    """How many copies of the model work side by side, at most: those without room yet wait for nodes that join.
    auto is one per GPU that Gemma gets, or one per node without GPUs, and more as nodes join."""
    gemma_gpus: OfWork[AutoCount] = "auto"
    """How many GPUs Gemma gets. auto is all but those of the encoders."""
    encoder_gpus: OfWork[AutoCount] = "auto"
    """How many GPUs the encoders get for themselves; 0 lets them share Gemma's. auto is one for about eight of Gemma's,
    more for wider SAEs, and 0 where there is a single GPU."""
    layer_blocks: OfWork[AutoCount] = "auto"
    """Into how many blocks the layers are split, each with its own encoder group. auto is 4 on GPUs
    (fewer beside few CPUs or on a small GPU), and 1 without."""
    encoders_per_block: OfWork[AutoCount] = "auto"
    """SAE-encoder actors in the group of a layer block. auto is 1."""
    address: Common[str] = "auto"
    """Ray cluster: local starts one on this machine, auto joins a running one if there is one, or its address."""
    patience: OfWork[int] = 120
    """Seconds to go on without a single actor ready or starting, where the cluster adds no nodes by itself."""
    standin: Common[bool] = False
    """Use the built-in stand-in model, SAEs and questions: no token, no GPU, no download, nothing about Gemma."""

    def __post_init__(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if isinstance(value, int) and value < 1:
                raise UsageError(f"{option(name)} is {value}; it must be at least 1.")
        for name in (*_COUNTS, "shots", "token_activations", "encoder_gpus"):
            value = getattr(self, name)
            if isinstance(value, int) and value > _MOST:
                raise UsageError(f"{option(name)} is {value}; it must be at most {_MOST}.")
        if isinstance(self.batch_tokens, int) and self.batch_tokens > MAX_BATCH_TOKENS:
            raise UsageError(f"--batch-tokens is {self.batch_tokens}; at most {MAX_BATCH_TOKENS} make one batch.")
        if isinstance(self.encoder_gpus, int) and self.encoder_gpus < 0:
            raise UsageError(f"--encoder-gpus is {self.encoder_gpus}; it must be at least 0.")
        if parse_shard(self.shard)[1] > 1 and self.writers != 1:
            raise UsageError("--shard is a part for a command of its own, and --writers has parts: give one of them.")
        if not re.fullmatch(L0, self.sae_l0):
            raise UsageError(
                f"--sae-l0 is {self.sae_l0!r}; it is canonical, min, max, nearest:60, a number such as 71, or a name "
                "such as medium."
            )
        if not re.fullmatch(WIDTH, self.sae_width):
            raise UsageError(
                f"--sae-width is {self.sae_width!r}; it is auto, or written as the SAE folders write it: 16k, 65k, 1m."
            )
        parse_dictionaries(self.dictionary)
        self._check_baseline_dictionary()
        parse_layers(self.layers)
        parse_columns(self.columns)
        parse_metadata(self.metadata)
        if not re.fullmatch(r"[\w.-]{1,80}", self.split) or not re.fullmatch(r"[\w./-]{0,200}", self.config):
            raise UsageError(f"--split {self.split!r} and --config {self.config!r} are to be names, such as test.")
        self._check_readings()
        if parse_baseline(self.attribution_baseline) and self.attribution == "off":
            raise UsageError("--attribution-baseline belongs to --attribution.\nGive --attribution gradient with it.")
        self._check_shots()
        parse_prompt(self.prompt, self.solution_separator)
        for name in ("prompt", "solution_separator", "system_prompt"):
            if re.search("[\ud800-\udfff]", getattr(self, name)):  # as Python holds bytes that are no UTF-8
                raise UsageError(f"{option(name)} is {getattr(self, name)[:80]!r}, which is no UTF-8 text.")
        if self.system_prompt and self.prompt != CHAT:
            raise UsageError(
                "--system-prompt belongs to --prompt chat.\nWrite it into the template of --prompt instead."
            )
        if not self.output_file:
            raise UsageError("--output-file is empty; name the file the records go to.")
        if self.overwrite and self.retry_errors:
            raise UsageError("--overwrite starts anew and --retry-errors goes on; give one of them.")
        if self.standin:
            for name in ("model", "revision", "sae_repo", "sae_revision", "sae_repo_id", "site"):
                if getattr(self, name) != getattr(type(self), name):
                    raise UsageError(
                        f"--standin brings its own model and SAEs, and {option(name)} {getattr(self, name)} names "
                        f"others: the run would be of one or of the other.\nTo try layerscope without downloads "
                        f"leave out {option(name)}; to use what you named leave out --standin."
                    )

    def _check_readings(self) -> None:
        has_max = "max" in parse_readings(self.readings)
        if self.token_activations < 0 or (self.token_activations and not has_max):
            raise UsageError(
                f"--token-activations is {self.token_activations}, and --readings is {self.readings}.\n"
                "It is how many features of max are recorded at every token, from 0; give --readings final,max with it."
            )

    def _check_baseline_dictionary(self) -> None:
        without = "--shard" if parse_shard(self.shard)[1] > 1 else "--dataset -" if self.dataset == "-" else ""
        if self.baseline_dictionary and without:
            raise UsageError(
                f"--baseline-dictionary reads some of the questions first, which {without} does not give it.\n"
                "Leave it out, and give --dictionary random=FOLDER with what layerscope.write_random_dictionary made."
            )

    def _check_shots(self) -> None:
        if self.shots < 0 or bool(self.shots) != bool(self.shots_from):
            raise UsageError(
                f"--shots is {self.shots} and --shots-from is {self.shots_from[:80]!r}.\n"
                "Give both: how many examples, from 1, and the file or data set that they come from."
            )
        if self.shots and self.prompt == CHAT:
            raise UsageError(
                "--shots are texts before the prompt, and --prompt chat has turns.\nWrite the prompt out, or leave "
                "them out."
            )
