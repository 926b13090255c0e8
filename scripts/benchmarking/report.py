"""The figures as a table and as a picture."""

from pathlib import Path
from typing import Any

GIB = 1 << 30
MIB = 1 << 20
VARIANTS = {"readings": "four readings", "dictionary": "two dictionaries", "attribution": "attributions"}
_FOUR = "whole job, four choices"


def table(figures: dict[str, Any]) -> str:
    """All figures, for people: a line for each, its seconds a question beside its share of the limit."""
    shape, versions = figures["shape"], figures["versions"]
    questions = figures["questions"]
    rate = best_rates(figures)
    lines = [
        f"layerscope {figures['commit']} on {figures['hardware']}, {figures['cpus']} CPUs"
        + (f", {figures['threads']} torch threads an actor" if figures["threads"] else ""),
        ", ".join(f"{name} {number}" for name, number in versions.items()),
        f"{shape['name']}: {shape['n_layers']} layers, d_model {shape['d_model']}, vocabulary {shape['vocabulary']:,}, "
        f"SAEs of {shape['d_sae']:,}; {figures['dtype']}, SAEs {figures['sae_dtype']}",
        f"{questions} questions, {figures['shared_tokens'] / questions:.1f} tokens each "
        f"({figures['unshared_tokens'] / questions:.1f} one solution at a time), {figures['batch_tokens']} to a batch",
        "matrix products: " + ", ".join(f"{value / 1e9:,.0f} GFLOP/s in {dtype}" for dtype, value in rate.items()),
    ]
    rows = seconds_per_question(figures)
    limit = rows.get("limit")
    if rows:
        lines += ["", f"{'':<34}{'ms a question':>15}{'of the limit':>14}"]
    for name, seconds in rows.items():
        bound = part_limits(figures).get(name, None if name.startswith("  ") else limit)
        share = f"{bound / seconds:>14.0%}" if bound else ""
        lines.append(f"{name:<34}{1e3 * seconds:>15,.1f}{share}")
    lines += ["", *comparisons(figures)]
    return "\n".join(lines)


def best_rates(figures: dict[str, Any]) -> dict[str, float]:
    """FLOP/s by number format: the better of the measurements before and after everything else."""
    return {dtype: max(value, figures["limit_again"][dtype]) for dtype, value in figures["limit"].items()}


def seconds_per_question(figures: dict[str, Any]) -> dict[str, float]:
    """What there is of the limit, the baselines, the parts and the whole job."""
    rows: dict[str, float] = {}
    if "job" in figures.get("work", {}):
        rows["limit"] = limit_of(figures, "job")
    for name in ("baseline", "strong_baseline"):
        if name in figures:
            rows[name.replace("_", " ")] = figures[name]["per_question"]
    if "parts" in figures:
        parts = figures["parts"]
        seconds = {name: value / parts["questions"] for name, value in parts["seconds"].items()}
        rows["forward pass and scores"] = seconds["body"] + seconds["projection and scores"]
        rows |= {f"  {name}": value for name, value in seconds.items()}
        rows["all parts"] = sum(seconds.values())
    if "job" in figures:
        rows["whole job"] = figures["job"]["seconds"] / figures["job"]["questions"]
    for name, told in VARIANTS.items():
        if name in figures:
            rows[f"whole job, {told}"] = figures[name]["seconds"] / figures[name]["questions"]
    if four := figures.get("four_choices"):
        rows[_FOUR] = four["job"]["seconds"] / four["job"]["questions"]
        rows["strong baseline, four choices"] = four["strong_baseline"]
    return rows


def part_limits(figures: dict[str, Any]) -> dict[str, float]:
    """Seconds a question that the matrix products of a part, or of another job, take at the best rate."""
    works = figures.get("work", {})
    found = {f"whole job, {told}": limit_of(figures, name) for name, told in VARIANTS.items() if name in works}
    if "four-choices" in works:
        found[_FOUR] = found["strong baseline, four choices"] = limit_of(figures, "four-choices")
    if "job" in works:
        rate, work = best_rates(figures), works["job"]
        model, sae = rate[figures["dtype"]], rate[figures["sae_dtype"]]
        found["  body"] = work["body"] / model
        found["  projection and scores"] = work["projection"] / model
        found["forward pass and scores"] = (work["body"] + work["projection"]) / model
        found["  encode and top k"] = work["encode"] / sae
    return found


def limit_of(figures: dict[str, Any], name: str) -> float:
    """Seconds a question that all matrix products of a job take at the best rate."""
    rate, work = best_rates(figures), figures["work"][name]
    model, sae = rate[figures["dtype"]], rate[figures["sae_dtype"]]
    return float((work["body"] + work["projection"]) / model + work["encode"] / sae)


def comparisons(figures: dict[str, Any]) -> list[str]:
    """Everything that is not a time per question."""
    rows = seconds_per_question(figures)
    lines = []
    mine = rows.get("whole job") or rows.get("all parts")
    if mine and "baseline" in rows:
        lines.append(
            f"{rows['baseline'] / mine:.1f} times as fast as the baseline, "
            f"{rows['strong baseline'] / mine:.1f} times as fast as the strong one"
        )
    for name, agreement in figures.get("agreement", {}).items():
        lines.append(
            f"{name}: log-likelihoods differ by {agreement['largest_difference']:.2g} at most, "
            f"{agreement['mean_difference']:.2g} on average; {agreement['same_top_k']:.1%} of top-k sets are the same"
        )
    if "parts" in figures:
        parts = figures["parts"]
        lines.append(
            f"attention sees {parts['padded_tokens'] / parts['tokens']:.2f} times the tokens in padding; nothing else "
            f"sees padding"
        )
        lines.append(
            f"JSON: {1e9 * parts['seconds']['JSON'] / parts['features']:.0f} ns a feature, "
            f"{parts['dict_json'] / parts['seconds']['JSON']:.1f} times the speed of dicts and orjson "
            f"({parts['bytes'] / parts['questions'] / 1e3:,.0f} kB a record)"
        )
    if "job" in figures:
        job = figures["job"]
        lines.append(
            f"whole job: a Gemma actor waits {job['gemma_waits']:.1%} of its time, nobody works "
            f"{job['nobody_works']:.1%}, driver and Ray take {job['ray_cpu']:.1%} of the CPU time; passes last "
            f"{1e3 * job['spans']['score'] / job['questions']:,.1f} ms a question and encoding beside them "
            f"{1e3 * job['spans']['encode'] / job['questions']:,.1f}; "
            f"first record {job['first_record']:.1f} s after the command"
        )
        memory = [f"{kind} {bytes_ / MIB:,.0f}" for kind, bytes_ in sorted(job["memory"].items())]
        lines.append(f"largest memory, MiB: {', '.join(memory)} (mapped files and shared memory included)")
    lines += [_beside(figures, name) for name in VARIANTS if name in figures and "job" in figures]
    if "four_choices" in figures:
        ratio = rows["strong baseline, four choices"] / rows[_FOUR]
        lines.append(f"four choices: {ratio:.1f} times as fast as the strong baseline")
    if "ablate" in figures:
        lines += [
            _of_ablations(kind, found, best_rates(figures)[figures["dtype"]])
            for kind, found in figures["ablate"].items()
        ]
    lines += [
        f"  {name.replace('_', ' ')} {figures[name]['memory'] / MIB:,.0f}"
        for name in ("baseline", "strong_baseline")
        if name in figures
    ]
    if "driver" in figures:
        lines += [_of_driver(name, run) for name, run in figures["driver"].items()]
    return lines


def _of_driver(name: str, run: dict[str, Any]) -> str:
    """What one driver sustains with records of one form."""
    of_bytes = run["bytes"] / 1e6
    return (
        f"one driver, {name} records: {run['questions'] / run['wall']:,.0f} questions/s, "
        f"{of_bytes / run['wall']:,.0f} MB/s; plain writing {of_bytes / run['plain_write']:,.0f} MB/s; "
        f"{1e6 * run['cpu'] / run['questions']:,.0f} us of its thread a question, "
        f"{1e6 * run['write_cpu'] / run['questions']:,.0f} us of the one that writes"
    )


def _beside(figures: dict[str, Any], name: str) -> str:
    """How much more the job takes with something than without, and how much more its products are."""
    rows = seconds_per_question(figures)
    products = limit_of(figures, name) / limit_of(figures, "job")
    memory = [
        f"{with_it / without:.2f} times its {whose}'s memory ({with_it / MIB:,.0f} MiB)"
        for kind, whose in (("gemma", "Gemma actor"), ("encoder", "encoder"))
        for with_it, without in [(figures[each]["memory"].get(kind, 0) for each in (name, "job"))]
        if with_it and without
    ]
    times = f"{rows[f'whole job, {VARIANTS[name]}'] / rows['whole job']:.2f} times the whole job's time"
    return f"with {VARIANTS[name]}: {times} (its matrix products {products:.2f} times), {', '.join(memory)}"


def _of_ablations(kind: str, found: dict[str, Any], rate: float) -> str:
    which = {"drawn": "drawn from all that fire", "frequent": "that fires at most solution tokens"}[kind]
    least = found["products"] / rate / found["ours"]
    return (
        f"ablating a feature {which} on a question, after the layers {', '.join(map(str, found['layers']))}: "
        f"{1e3 * found['ours']:,.1f} ms ({least:.0%} of it its matrix products at best), "
        f"{found['ours'] / found['forward_from_there']:.2f} times the forward pass from there on; "
        f"{found['plain'] / found['ours']:.1f} times as fast as a whole pass of plain transformers each, "
        f"{found['plain_together'] / found['ours']:.1f} times as such passes over many at once, "
        f"{found['plain_alone'] / found['ours']:.1f} times as one for each solution with all logits "
        f"({found['plain_products'] / found['products']:.1f} times fewer products); "
        f"margins differ by {found['largest_difference']:.2g} at most"
    )


def draw(figures: dict[str, Any], path: Path) -> None:
    """A bar for each way to do the job, ours cut into its parts, and the limit as a line."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot

    rows = seconds_per_question(figures)
    canvas, axes = pyplot.subplots(figsize=(8, 2.6), layout="constrained")
    names = [name for name in ("baseline", "strong baseline", "all parts", "whole job") if name in rows]
    for name in names:
        if name != "all parts":
            axes.barh(name, 1e3 * rows[name], color="0.6")
    left = 0.0
    for part in [name for name in rows if name.startswith("  ")]:
        axes.barh("all parts", 1e3 * rows[part], left=left, label=part.strip())
        left += 1e3 * rows[part]
    if "limit" in rows:
        axes.axvline(1e3 * rows["limit"], color="black", linestyle=":", label="limit")
    axes.invert_yaxis()
    axes.set_xlabel(f"ms a question ({figures['shape']['name']}, {figures['dtype']}, {figures['hardware']})")
    axes.legend(fontsize="small", loc="lower right")
    canvas.savefig(path, dpi=120)
