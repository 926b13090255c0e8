"""`layerscope ablate`: a run's questions once more, with features taken out; its file promises what a run's does."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from layerscope.analysis import choosing
from layerscope.analysis.ablations import summarise
from layerscope.analysis.named_features import expect_features, read_features
from layerscope.commands.effects_told import as_text
from layerscope.commands.of_run import config_of, expect_the_same
from layerscope.commands.saying import Stop, command_line, stoppable, tell_place, warn, warning
from layerscope.config import Config, parse_layers
from layerscope.config.ablation import AblationOptions
from layerscope.engine.batches.lines import BatchLines
from layerscope.engine.budget import Budget
from layerscope.engine.cluster.cluster import Cluster
from layerscope.engine.crew import Crew
from layerscope.engine.driver import Driver
from layerscope.engine.work import Work, recover
from layerscope.errors import UsageError
from layerscope.formatting import count_of, ranges, say, utf8
from layerscope.planning.ablation import (
    FEATURES_AT_ONCE,
    ablating,
    ablation_plan,
    decoder_norms,
    plan_of_lines,
    to_about,
    to_identity,
)
from layerscope.planning.describe import STANDIN_NOTE
from layerscope.planning.job import Job, check_space
from layerscope.planning.node import Node
from layerscope.planning.prepare import prepare
from layerscope.planning.saes import acts_at
from layerscope.records.ablations import AblationFile, AblationTotals, digest_of, parse_ablation
from layerscope.records.advice import Advice
from layerscope.records.manifest.fingerprints import Fingerprints
from layerscope.records.manifest.identity import CONTROLS, AblationSettings
from layerscope.records.manifest.manifest import AblationAbout, manifest_path
from layerscope.records.progress import Progress
from layerscope.records.reading.run import Run
from layerscope.records.reading.shards import open_run
from layerscope.records.storage.stored_run import StoredRun
from layerscope.records.writing import journal
from layerscope.records.writing.packing import packing_of
from layerscope.records.writing.targets import records_path

_NOT_OVER = Advice("Name another --output-file.", "Name another --output-file.")


@dataclass(frozen=True)
class _Prepared:
    """What is settled before anything expensive starts."""

    job: Job
    settings: AblationSettings
    about: AblationAbout
    whole: Job
    """The run's own."""
    cost: str


def ablate(file: Path, options: AblationOptions) -> int:
    """Ablates features of a run, or goes on with it, and prints what they do: 0 when the file is complete.

    Raises:
        Stopped: a signal ended it, where it says.
    """
    with stoppable() as stop:
        _ablate(file, options, stop)
    return 0


def _ablate(file: Path, options: AblationOptions, stop: Stop) -> None:
    run = _whole_run(file)
    config = _config(run, options)
    cluster = Cluster(config, add_nodes=not options.plan)
    prepared = _prepare(run, config, options, cluster.nodes)
    job = prepared.job
    if job.standin:
        say(STANDIN_NOTE)
    say(prepared.cost)
    if options.plan:
        return
    warn(job)
    check_space(job)
    identity = to_identity(prepared.whole, prepared.settings)
    about = to_about(prepared.whole, command_line(), prepared.about)
    total = ablation_plan(prepared.whole, prepared.settings).lines
    with journal.open_journal(job.output.records, identity, about, options.overwrite) as output:
        stop.stands = lambda: f"after {output.lines} of {count_of(total, 'line')}"
        totals = AblationTotals()
        recover(output, totals.add, warning)
        if output.lines < total:
            _work(prepared, cluster, output, totals, stop)
    say(as_text(summarise(job.output.records, run)))
    say(f"file      {job.output.records}")


def _whole_run(named: Path) -> Run:
    """A run's file, its parts or its shards.

    Raises:
        UsageError: there is no such run, or shards of several are missing.
    """
    run = open_run(named)
    if len(run.parts) > 1 and run.manifest.identity.settings.shard is not None:
        raise UsageError(
            f"{run.path}{run.others}: {run.notes[0]}\nPut them beside the others, or name one shard's file."
        )
    return run


def _config(run: Run, options: AblationOptions) -> Config:
    """The run's settings, with this command's places and machines."""
    path = records_path(options.output_file)
    is_plain = packing_of(path) is None and not isinstance(path, StoredRun)
    is_plain = is_plain and not options.output_file.endswith((".json", "/"))
    if not is_plain or path in [each.path.absolute() for each in (run, *run.parts)]:
        is_what = "the run's own file" if is_plain else "no name of plain lines on a disk"
        raise UsageError(f"--output-file: {options.output_file} is {is_what}.\nName another, such as ablations.jsonl.")
    if path.exists() and manifest_path(path).exists():
        AblationFile.open(path, _NOT_OVER)  # what a run wrote is not overwritten by what is made of it
    config = config_of(run)
    return replace(
        config,
        model=options.model or config.model,
        sae_repo=options.sae_repo or config.sae_repo,
        dataset=options.dataset or config.dataset,
        output_file=options.output_file,
        writers=1,
        shard=run.manifest.identity.settings.shard or "1/1",
        overwrite=options.overwrite,
        device=options.device,
        gemma_actors=options.gemma_actors,
        address=options.address,
        patience=options.patience,
    )


def _prepare(run: Run, config: Config, options: AblationOptions, nodes: Sequence[Node]) -> _Prepared:
    job = prepare(config, nodes)
    expect_the_same(run, job.identity())
    acts_at(job.dictionaries[0], job.spec)  # or it is said before what takes longer
    wanted = parse_layers(options.layers)
    layers = [layer for layer in job.layers if wanted is None or layer in wanted]
    if not layers:
        raise UsageError(
            f"--layers is {options.layers}, and the run has the layers {ranges(job.layers)}.\nName some of these."
        )
    named = read_features(Path(options.features).expanduser()) if options.features else []
    expect_features(named, layers, job.d_sae)
    found = choosing.tally(run, layers)
    keys, chosen_by = _chosen(run, found, options, layers, named)
    norms = None if options.check else (lambda layer: decoder_norms(job, layer))
    settings = AblationSettings(
        run=digest_of(run),
        features=choosing.with_controls(keys, found, norms),
        controls=[] if options.check else list(CONTROLS),
        steer=options.steer or None,
        features_at_once=FEATURES_AT_ONCE,
    )
    about = AblationAbout(
        run=utf8(str(run.path)),
        chosen_by=chosen_by,
        starts=" ".join(map(str, job.plan.starts.tolist())),
        groups=" ".join(map(str, found.groups)),
        discovery="".join(str(int(half)) for half in found.discovery),
    )
    differences = {} if options.check else choosing.mean_differences(found)
    return _Prepared(ablating(job, nodes, settings, differences), settings, about, job, _cost(job, settings, found))


def _chosen(
    run: Run, found: choosing.Tally, options: AblationOptions, layers: Sequence[int], named: list[choosing.Key]
) -> tuple[list[choosing.Key], Any]:
    """The features, and by what they were chosen."""
    if named:
        return named, "file"
    if options.check:
        return choosing.sample(found, options.check), "check"
    if options.by == "contrast" or (options.by == "auto" and not found.attributed):
        return choosing.by_contrast(run, layers, options.top), "contrast"
    return choosing.by_attribution(found, options.top), "attribution"


def _cost(job: Job, settings: AblationSettings, found: choosing.Tally) -> str:
    """How much work it is, for people: in passes over all questions, as far as the records say where features fire."""
    plan, spec = ablation_plan(job, settings), job.spec
    head = spec.vocabulary * spec.d_model / spec.n_parameters  # of a pass, the share of the output projection
    by_layer = {feature.layer for feature in settings.features}
    passes = 1.0
    for feature in settings.features:
        fires = min(1.0, found.fires.get((feature.layer, feature.feature_id), 0) / max(1, found.scored))
        above = (1 - head) * (spec.n_layers - 1 - feature.layer) / spec.n_layers
        passes += fires * len(plan.kinds) * (above + head)
    beside = f", each with {', '.join(settings.controls)} beside it" if settings.controls else ""
    layers = f"{'layer' if len(by_layer) == 1 else 'layers'} {ranges(by_layer)}"
    place = acts_at(job.dictionaries[0], spec)
    return (
        f"features  {len(settings.features)} of {layers}, taken out of {place}{beside}\n"
        f"lines     {count_of(plan.lines, 'line')}: {count_of(job.n_questions, 'question')} each\n"
        f"work      about {passes:.1f} forward passes over all questions; more where features fire at tokens of which "
        "the records say nothing"
    )


class _Ablating(Work):
    """`Work` whose lines are ablations."""

    def count(self, new: BatchLines) -> None:
        assert isinstance(self.progress.totals, AblationTotals)
        for line in new.texts():
            self.progress.totals.add(parse_ablation(line))


def _work(prepared: _Prepared, cluster: Cluster, output: journal.Journal, totals: AblationTotals, stop: Stop) -> None:
    """Starts Ray and computes what the file lacks."""
    job, fingerprints = prepared.job, Fingerprints(output.fingerprints)
    lines = plan_of_lines(ablation_plan(prepared.whole, prepared.settings))
    with (
        Progress(len(lines.order), totals, noun="line") as progress,
        cluster.engine(job.placement.gemma_actors * job.placement.gemma.num_cpus, progress.note) as engine,
    ):
        stop.hold()
        tell_place(job, progress)

        def results(batches: Sequence[int]) -> Generator[BatchLines]:
            crew = Crew(job, engine, progress.note, fingerprints)
            budget = Budget(job, engine.object_store_bytes())
            driver = Driver(job, batches, crew, budget, progress.note, at_work=progress.begin)
            yield from driver.results(lambda: bool(stop.first) or output.is_taken_away())

        if not stop.first:
            _Ablating(lines, output, progress, fingerprints, results).go_on()
    stop.obey()
