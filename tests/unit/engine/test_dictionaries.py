"""Several dictionaries in one pass: each one's lists are those of a run of its own, and the first one's bytes stay."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from layerscope.cli import main
from layerscope.config import FIRST, Config
from layerscope.errors import LayerscopeError, UsageError
from layerscope.planning.describe import describe
from layerscope.planning.machine import probe
from layerscope.planning.prepare import prepare
from layerscope.questions.pairs import PairTokenizer
from layerscope.records.line.dictionaries import seen_by
from layerscope.records.line.readings import PlacedFeature
from layerscope.records.line.record import Record, parse
from layerscope.records.verify import verify
from plain import by_transformers, plain_run

ALL = "final,last-word,max,prompt"


@pytest.fixture(scope="module")
def sources(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny stand-in as `model`, its SAEs as `residual`, and random ones of two other sites."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "model").symlink_to(tiny / "model")
    (folder / "residual").symlink_to(tiny / "saes")
    for number, (ending, width, layers) in enumerate((("att", 32, 3), ("mlp", 32, 3), ("transcoders", 48, 3))):
        random_saes(folder / f"gemma-scope-tiny-{ending}", width, layers, number)
    random_saes(folder / "short", 32, 1, 3)
    return folder


def random_saes(folder: Path, width: int, layers: int, seed: int) -> None:
    """In Gemma Scope's layout, with 512 features of which one in twenty fires at rows of unit size."""
    dice = np.random.default_rng(seed)
    for layer in range(layers):
        path = folder / f"layer_{layer}" / "width_1k" / "average_l0_30"
        path.mkdir(parents=True)
        w_enc = dice.standard_normal((width, 512), np.float32) * np.float32(width**-0.5)
        arrays = {"W_enc": w_enc, "W_dec": w_enc.T.copy(), "b_dec": np.zeros(width, np.float32)}
        np.savez(
            path / "params.npz", **arrays, b_enc=np.zeros(512, np.float32), threshold=np.full(512, 1.6, np.float32)
        )


def config_of(sources: Path, dictionaries: Mapping[str, str] = {}, **more: Any) -> Config:
    return Config(
        model=str(sources / "model"),
        sae_repo=more.pop("sae_repo", str(sources / "residual")),
        sae_width="1k",
        dataset="bundled",
        num_samples=6,
        batch_tokens=120,
        top_k=10,
        output_file=str(sources / "records.jsonl"),
        dictionary=tuple(f"{name}={told}" for name, told in dictionaries.items()),
        **more,
    )


def further(sources: Path) -> dict[str, str]:
    return {
        "heads": f"{sources}/gemma-scope-tiny-att,width=1k",
        "few": "auto,width=1k,l0=min",
        "mlp": f"{sources}/gemma-scope-tiny-mlp,width=1k",
    }


def parsed(lines: bytes) -> list[Record]:
    records = [parse(line) for line in lines.splitlines(keepends=True)]
    return [record for record in records if isinstance(record, Record)]


def without_others(line: bytes) -> bytes:
    """A line as it would be if there were no further dictionary."""
    while (start := line.find(b',"other_dictionaries":{')) >= 0:
        opening = line.index(b"{", start)
        _, length = json.JSONDecoder().raw_decode(line[opening:].decode("latin-1"))
        line = line[:start] + line[opening + length :]
    return line


@pytest.mark.parametrize("more", [{}, {"readings": ALL, "tokens": True, "token_activations": 2}], ids=["final", "all"])
def test_each_one_s_lists_are_those_of_a_run_of_its_own(sources: Path, more: dict[str, Any]) -> None:
    """Of another site, of the same site (whose tensor is captured once), and what is more at a third."""
    whole = plain_run(config_of(sources, further(sources), **more))
    alone = {FIRST: plain_run(config_of(sources, **more))}
    assert b"".join(map(without_others, whole.splitlines(keepends=True))) == alone[FIRST]
    for name, told in further(sources).items():
        repo, *parts = told.split(",")
        own = config_of(sources, sae_repo=repo if repo != "auto" else str(sources / "residual"), **more)
        alone[name] = plain_run(replace(own, sae_l0="min" if "l0=min" in parts else "canonical"))
        assert [seen_by(record, name) for record in parsed(whole)] == parsed(alone[name])
    assert len({json.dumps(json.loads(lines.splitlines()[0])) for lines in alone.values()}) == 4


def test_a_plan_says_what_the_encoders_of_each_take(sources: Path) -> None:
    """Three layers of 32 numbers a row, features of four bytes a number."""
    told = describe(prepare(config_of(sources, {"heads": f"{sources}/gemma-scope-tiny-att,width=1k"}), [probe()]))
    assert "width 1k (1,024 features), float32, encoders 393 kB" in told
    assert "and        heads: attn_out of " in told
    assert "width 1k (512 features), float32, encoders 197 kB" in told


@torch.inference_mode()
def at_sites(model: Any, ids: list[int]) -> dict[str, list[np.ndarray]]:
    """By transformers alone: what each layer has of a text [T, D] at the sites of three dictionaries."""
    found: dict[str, list[np.ndarray]] = {FIRST: [], "heads": [], "mlp": []}
    hooks = []
    for layer in model.model.layers:
        hooks += [
            layer.register_forward_hook(lambda _m, _i, out: found[FIRST].append(out[0].numpy())),
            layer.self_attn.o_proj.register_forward_pre_hook(
                lambda _m, into: found["heads"].append(into[0][0].numpy())
            ),
            layer.post_feedforward_layernorm.register_forward_hook(
                lambda _m, _i, out: found["mlp"].append(out[0].numpy())
            ),
        ]
    model(input_ids=torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


def test_every_list_is_what_plain_transformers_and_the_formula_give_one_solution_at_a_time(sources: Path) -> None:
    """Three sites in one pass, at the final token and strongest over all of them, in float32."""
    config = config_of(sources, further(sources), readings="final,max", dtype="float32", sae_dtype="float32")
    job = prepare(config, [probe()])
    folders = {FIRST: "residual", "heads": "gemma-scope-tiny-att", "mlp": "gemma-scope-tiny-mlp"}
    paths = {FIRST: [sae.path for sae in job.saes]}
    model, listed = by_transformers(sources / "model"), 0
    tokenizer = PairTokenizer(sources / "model" / "tokenizer.json", 8192)
    for record in parsed(plain_run(config)):
        question = job.selection[record.example_id]
        pair = tokenizer.pair(question)
        for number, details in ((record.label, record.positive), (record.negative_index, record.negative)):
            ids = [pair.tokens[pair.row_index(number, at)] for at in range(pair.lengths[number])]
            for name, of_layers in at_sites(model, ids).items():
                seen = seen_by(record, name)
                lists = (seen.positive if details is record.positive else seen.negative).readings
                for layer, tensor in enumerate(of_layers):
                    path = paths.get(name, [f"layer_{at}/width_1k/average_l0_30/params.npz" for at in range(3)])[layer]
                    sae = np.load(sources / folders[name] / path)
                    pre = tensor[pair.prompt :] @ sae["W_enc"] + sae["b_enc"]
                    active = np.where(pre > sae["threshold"], np.maximum(pre, 0), 0)
                    for reading, own in (("final", active[-1]), ("max", active.max(axis=0))):
                        features = lists[reading].active_features_by_layer[layer]
                        expected = [i for i in np.argsort(-own, kind="stable")[:10] if own[i] > 0]
                        assert [each.feature_id for each in features] == expected
                        np.testing.assert_allclose([each.activation for each in features], own[expected], rtol=1e-4)
                        assert lists[reading].active_feature_count_by_layer[layer] == np.count_nonzero(own)
                        listed += len(features)
                        if reading == "max":
                            places = [each.token for each in features if isinstance(each, PlacedFeature)]
                            assert places == active[:, expected].argmax(axis=0).tolist()
    assert listed > 1000


def test_attributions_are_the_first_one_s_as_in_a_run_of_its_own(sources: Path) -> None:
    """The others are read on the way, before and behind the tensor that the margin is led back to."""
    more = {"attribution": "gradient", "readings": "final,max"}
    whole = plain_run(config_of(sources, further(sources), **more))
    assert b"".join(map(without_others, whole.splitlines(keepends=True))) == plain_run(config_of(sources, **more))
    lists = [seen_by(record, "mlp") for record in parsed(whole)]
    assert lists == parsed(
        plain_run(config_of(sources, sae_repo=f"{sources}/gemma-scope-tiny-mlp", readings="final,max"))
    )


def test_residuals_are_what_the_first_one_reads(sources: Path) -> None:
    kept, alone = dict[int, bytes](), dict[int, bytes]()
    first = {"sae_repo": f"{sources}/gemma-scope-tiny-mlp", "residuals": "float32"}
    plain_run(config_of(sources, {"stream": f"{sources}/residual,width=1k"}, **first), kept)
    plain_run(config_of(sources, **first), alone)
    assert kept == alone
    assert set(kept) == {0, 1, 2}


def test_a_run_that_is_torn_and_gone_on_with_has_the_plain_bytes_and_others_are_refused(
    sources: Path, tmp_path: Path, one_process: Callable[[str], None]
) -> None:
    one_process("")
    named = {"dataset": "bundled", "num_samples": "6", "batch_tokens": "120", "top_k": "10", "sae_width": "1k"}
    paths = {"model": str(sources / "model"), "sae_repo": str(sources / "residual")}
    told = [word for name, value in (named | paths).items() for word in (f"--{name.replace('_', '-')}", value)]
    file = tmp_path / "records.jsonl"

    def run(dictionaries: Mapping[str, str], *more: str) -> int:
        words = [word for name, where in dictionaries.items() for word in ("--dictionary", f"{name}={where}")]
        with pytest.raises(SystemExit) as ended:
            main(["run", *told, "--output-file", str(file), *words, *more])
        return int(ended.value.code or 0)

    assert run(further(sources), "--layer-blocks", "2") == 0
    expected = plain_run(config_of(sources, further(sources)))
    assert file.read_bytes() == expected
    file.write_bytes(expected[: len(expected) // 2])
    renamed = {"small" if name == "few" else name: where for name, where in further(sources).items()}
    for others in ({}, renamed, {"heads": further(sources)["heads"], "few": further(sources)["mlp"]}):
        with pytest.raises(UsageError, match=r"other_dictionaries\.few"):
            journal_of(config_of(sources, others, overwrite=False), file)
    assert run(further(sources)) == 0
    assert file.read_bytes() == expected
    assert "all whole" in verify(file)


def journal_of(config: Config, file: Path) -> None:
    """Goes on with a file as a run of other settings would, as far as it is let."""
    from layerscope.records.manifest.differences import manifest_to_go_on_with

    job = prepare(replace(config, output_file=str(file)), [probe()])
    manifest_to_go_on_with(file, job.identity(), job.about(""))


@pytest.mark.parametrize(
    ("dictionaries", "says"),
    [
        (["few=auto,l0=min", "few=auto,l0=max"], "the name few is there twice"),
        (["first=auto,l0=min"], "the name first is that of the SAEs of --sae-repo"),
        (["a b=auto"], "the name 'a b'"),
        (["few"], "no repository"),
        (["few=auto,l0=low"], "l0=low"),
        (["few=auto,site=mlp"], "site=mlp"),
        (["few=auto,l0=min,l0=max"], "a part twice"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_two_lines(dictionaries: list[str], says: str) -> None:
    with pytest.raises(UsageError, match="--dictionary") as refused:
        Config(dictionary=tuple(dictionaries))
    assert says in str(refused.value)
    assert len(str(refused.value).splitlines()) == 2


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ("auto,width=1k", "its SAEs are those of --sae-repo"),
        ("{sources}/model", "holds no SAEs"),
        ("{sources}/nowhere", "neither a folder here nor"),
        ("{sources}/short,width=1k", "no SAE of width 1k for layer 1, 2"),
        ("auto,width=1k,site=mlp_out", "its SAEs are those of --sae-repo"),
        ("auto,width=65k", "no SAEs of width 65k"),
        ("{sources}/gemma-scope-tiny-transcoders,width=1k", "vectors of 48"),
    ],
)
def test_what_does_not_fit_is_refused_by_name_in_two_lines(sources: Path, told: str, says: str) -> None:
    with pytest.raises(LayerscopeError, match="--dictionary other: ") as refused:
        prepare(config_of(sources, {"other": told.format(sources=sources)}), [probe()])
    assert says in str(refused.value)
    assert len(str(refused.value).splitlines()) == 2
