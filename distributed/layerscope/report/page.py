"""`layerscope report`: a file in, one self-contained HTML page out.

Puts together what the other modules of the package say and draw; the page's looks and behaviour are in `templates/`.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from layerscope.analysis.ablations import summaries_beside
from layerscope.analysis.dictionaries import Dictionary, dictionaries_by_depth
from layerscope.analysis.findings import analyse
from layerscope.analysis.result import Options
from layerscope.formatting import size_text
from layerscope.neuronpedia.explanations import load_explanations
from layerscope.records.effects import Beside
from layerscope.records.line.dictionaries import FIRST
from layerscope.records.reading.run import Run
from layerscope.records.reading.shards import Files, read_run
from layerscope.records.storage.addresses import beside_run
from layerscope.report.all_features import features_beside, write_all_features
from layerscope.report.document import document, page_environment, page_target, write_page
from layerscope.report.packs.feature_pack import feature_pack
from layerscope.report.packs.question_pack import pack_questions, packed
from layerscope.report.sections import dictionaries
from layerscope.report.sections.causes import shown_causes
from layerscope.report.sections.feature_tables import Descriptions
from layerscope.report.sections.reading_body import Shown, body_of
from layerscope.report.stages import Stages
from layerscope.report.words.sentences import run_name
from layerscope.report.words.untested import why_untested

_STYLE = (
    "page.css",
    "charts.css",
    "tables.css",
    "browser.css",
    "causes.css",
    "panel.css",
    "screens.css",
)  # the last after all that it changes
_SCRIPT = (
    "base.js",
    "state.js",
    "tables.js",
    "page.js",
    "saving.js",
    "questions.js",
    "tokens.js",
    "panel.js",
    "addresses.js",
)


def report(
    files: Files,
    to: Path | None = None,
    show: bool = False,
    reading: str | None = None,
    baseline_dictionary: bool = False,
    dictionary: str = FIRST,
    title: str = "",
    ablations: Sequence[Path] = (),
    all_features: bool = False,
) -> str:
    """Writes the page of a file, or of the shards of one job, finished or still growing, and says where it is.

    Args:
        to: the page; the (first) file with `.html` if None, with `.READING.html` where the file has several readings
            and one is named. Replaced if it is a report, refused if it is anything else.
        show: open it in the browser.
        reading: the one of the file's readings that it is about; all of them if None. Of a file with `prompt` the
            control is said to have passed, and has no sections of its own unless it is named.
        baseline_dictionary: say what random features come to, where a reading has residuals to make them of.
        dictionary: whose features; the page is with `.NAME.html` by default where it is not the first.
        title: what it is called, beside the file's name; that alone if empty.
        ablations: files of `layerscope ablate` of this run, shown in the section of causes: of features, of a check.
        all_features: write every feature that was tested beside it, with `.features.csv`.

    Raises:
        UsageError: a file is not a run's or has no such reading or dictionary, several are not shards of one job, there
            are no residuals to make random features of, the ablations are of others, or `to` is there and no report.
        LayerscopeError: a line is not a record, or the page cannot be written.
    """
    run = read_run(files, dictionary)
    inputs = [part.path for part in run.parts]
    effects = summaries_beside(ablations, run, dictionary)
    readings = run.manifest.readings
    if reading is not None:
        run.check_reading(reading)
        readings = (reading,)
    several = reading is not None and len(run.manifest.readings) > 1
    suffix = ("" if dictionary == FIRST else f".{dictionary}") + (f".{reading}.html" if several else ".html")
    to = page_target(to, beside_run(run.path, suffix), inputs)
    beside = features_beside(to) if all_features else None
    with Stages() as stages:
        descriptions = load_explanations(run.manifest).by_layer
        of_all = Options(baseline_dictionary=baseline_dictionary, dictionary=dictionary)
        shown = _read_all(run, readings, of_all, effects, stages)
        page = render(shown, descriptions, title, dictionaries_by_depth(run, shown[0].analysis, stages.tell))
    write_page(to, page, show)
    told = [f"report      {to} ({size_text(len(page))})", *run.notes]
    if beside is not None:
        write_all_features(beside, [each.analysis for each in shown], descriptions)
        told.insert(1, f"features    {beside} ({size_text(beside.stat().st_size)})")
    return "\n".join(told)


def _read_all(run: Run, readings: Sequence[str], options: Options, effects: Beside, stages: Stages) -> list[Shown]:
    """What the page shows of each reading, `final` first; the control is shown only where it is alone."""
    shown = [name for name in readings if name != "prompt"] or readings
    inputs = [part.path for part in run.parts]
    found = []
    for name in shown:
        of = f" ({name})" if len(shown) > 1 else ""

        def tell(stage: str, share: float, of: str = of) -> None:
            stages.tell(stage + of, share)

        baseline = options.baseline_dictionary and (name != "max" or len(shown) == 1)
        analysis = analyse(inputs, replace(options, reading=name, baseline_dictionary=baseline), tell)
        pack = pack_questions(run, analysis, partial(tell, "packing questions"), len(shown))
        of_causes = shown_causes(run, analysis, effects, partial(tell, "reading causes"))
        found.append(Shown(analysis, pack, of_causes))
    return found


def render(
    shown: Sequence[Shown], descriptions: Descriptions, title: str = "", several: Sequence[Dictionary] = ()
) -> bytes:
    """The page: the first reading as it is, the others packed beside it.

    Args:
        several: the dictionaries of a run that has more than the one that the page is of.
    """
    environment, analysis = page_environment(), shown[0].analysis
    beside = dictionaries.section(analysis, several)
    bodies = [
        body_of(environment, each, descriptions, shown, title, beside if each is shown[0] else None) for each in shown
    ]
    packs = [
        (each.reading, packed(body.encode()) if number else "", each.pack, _of_features(each, descriptions))
        for number, (each, body) in enumerate(zip(shown, bodies, strict=True))
    ]
    said = {
        "title": title,
        "name": run_name(analysis),
        "header": analysis.header,
        "contrasts": (analysis.right_wrong, analysis.chosen_rejected),
        "readings": [each.reading for each in shown],
        "dictionaries": beside,
        "body": bodies[0],
        "packed": packs,
    }
    facts = {"questions": analysis.header.questions}
    if not why_untested(analysis, analysis.right_wrong):
        facts["findings"] = int(analysis.right_wrong.firing_by_layer.confirmed.sum())
    return document(environment, "report.html.jinja", _STYLE, _SCRIPT, said, facts)


def _of_features(one: Shown, descriptions: Descriptions) -> str:
    return packed(feature_pack(one.analysis, descriptions, one.pack.tracked, one.beside.ablated.ablations))
