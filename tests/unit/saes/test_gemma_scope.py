"""The right SAE is taken, above all the one that Neuronpedia's pages are about, and what is not there is told."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerscope.config import parse_layers
from layerscope.errors import UsageError
from layerscope.formatting import ranges
from layerscope.hub.repository import FileInfo, Repository
from layerscope.planning.saes import Dictionary
from layerscope.saes.choice import SaeChoice
from layerscope.saes.choosing import choose_saes
from layerscope.saes.gemma_scope import canonical_l0, catalogue
from paths import DATA

# What the public repositories hold, and what SAELens calls canonical: an independent table.
RELEASES: dict[str, dict[str, Any]] = json.loads((DATA / "gemma_scope_index.json").read_text(encoding="utf-8"))[
    "releases"
]
N_LAYERS = {"2b": 26, "9b": 42, "27b": 46}
PT_2B, PT_9B, IT_9B, PT_27B = (f"google/gemma-scope-{name}-res" for name in ("2b-pt", "9b-pt", "9b-it", "27b-pt"))
SITES = {"res": "resid_post", "att": "attn_out", "mlp": "mlp_out", "transcoders": "transcoder"}
ODD_PAGE = "layer_2/width_16k/average_l0_8"  # of 9b-pt-res: the table names the page of another layer and width


def n_layers(release: str) -> int:
    return N_LAYERS[release.split("-")[2]]


def paths(release: str) -> list[str]:
    return [
        f"{folder}/width_{width}/average_l0_{l0}/params.npz"
        for folder, widths in RELEASES[release]["variants"].items()
        for width, l0s in widths.items()
        for l0 in l0s
    ]


def repository(release: str, files: Iterable[str] | None = None, name: str | None = None) -> Repository:
    """A release as the hub lists it, or other files or another name."""
    listed = ["README.md", ".gitattributes", *(paths(release) if files is None else files)]
    return Repository(name or release, "0" * 40, {path: FileInfo(1) for path in listed})


def choose(
    release: str,
    held: Repository | None = None,
    model_layers: int = 0,
    sae_width: str = "16k",
    sae_l0: str = "canonical",
    layers: str = "all",
    copy_of: str = "",
    site: str = "auto",
) -> tuple[list[SaeChoice], list[int]]:
    there = held or repository(release)
    return choose_saes(there, model_layers or n_layers(release), parse_layers(layers), sae_width, sae_l0, copy_of, site)


def refusal(release: str, held: Repository | None = None, **settings: Any) -> str:
    with pytest.raises(UsageError) as caught:
        choose(release, held, **settings)
    return str(caught.value)


def canonical(release: str) -> Mapping[str, Mapping[str, tuple[int, str]]]:
    """Average L0 and Neuronpedia id by width and layer."""
    table: Mapping[str, Mapping[str, tuple[int, str]]] = RELEASES[release]["canonical"]
    return table


# --- which SAE --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", RELEASES)
def test_the_canonical_saes_are_those_of_saelens_with_their_pages(release: str) -> None:
    """Every canonical entry there is; another SAE's features would be linked to pages about something else."""
    for width, by_layer in canonical(release).items():
        chosen, missing = choose(release, sae_width=width)
        expected = {int(layer): (l0, page) for layer, (l0, page) in by_layer.items()}
        assert {sae.layer: (sae.l0, sae.neuronpedia_id) for sae in chosen} == expected
        assert [sae.layer for sae in chosen] == sorted(expected)
        assert missing == sorted(set(range(n_layers(release))) - set(expected))
        for sae in chosen:
            assert sae.path == f"layer_{sae.layer}/width_{width}/average_l0_{sae.l0}/params.npz"
            assert (sae.width, sae.site) == (width, SITES[release.split("-")[-1]])
            assert (sae.recipe.architecture, sae.recipe.folding) == ("jumprelu", "")


@pytest.mark.parametrize("release", RELEASES)
def test_nearest_to_100_is_canonical_in_every_release(release: str) -> None:
    """The rule stands in for the table where a repository is not in it."""
    ties = 0
    for width, by_layer in canonical(release).items():
        for layer, (expected, _) in by_layer.items():
            chosen = canonical_l0(RELEASES[release]["variants"][f"layer_{layer}"][width])
            ties += chosen != expected
            assert abs(chosen - 100) == abs(expected - 100)
    assert ties <= 2 * release.endswith("-att")  # two SAEs as near as each other: the table takes either


@pytest.mark.parametrize("release", RELEASES)
def test_another_sae_has_a_page_of_its_own_or_none(release: str) -> None:
    """Another L0's features are other features under the same numbers."""
    held, others = repository(release), RELEASES[release]["other_pages"]
    for layer, widths in catalogue(held.files).items():
        for width, l0s in widths.items():
            expected, page = canonical(release).get(width, {}).get(str(layer), (None, None))
            for l0 in l0s:
                settings = {"sae_width": width, "sae_l0": str(l0), "layers": str(layer)}
                ((sae,), missing) = choose(release, held, **settings)
                assert (sae.l0, missing) == (l0, [])
                folder = sae.path.removesuffix("/params.npz")
                own = page if l0 == expected else others.get(folder) if folder != ODD_PAGE else None
                assert sae.neuronpedia_id == own
                assert l0 == expected or own is None or own.endswith(f"-{width}__l0-{l0}")


@pytest.mark.parametrize("name", ["/data/google/gemma-scope-2b-pt-res", "somebody/gemma-scope-2b-pt-res"])
def test_the_same_files_elsewhere_have_no_pages(name: str) -> None:
    """A folder or a copy may hold SAEs of one's own under the same names."""
    here, there = choose(PT_2B)[0], choose(PT_2B, repository(PT_2B, name=name))[0]
    assert [sae.l0 for sae in there] == [sae.l0 for sae in here]
    assert {sae.neuronpedia_id for sae in there} == {None}


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("name", ["/data/saes", "somebody/mirror"])
def test_a_copy_that_is_named_as_one_keeps_its_pages(release: str, name: str) -> None:
    for width in canonical(release):
        copied, _ = choose(release, repository(release, name=name), sae_width=width, copy_of=release)
        assert copied == choose(release, sae_width=width)[0]
        assert all(sae.neuronpedia_id for sae in copied)


def test_a_copy_is_one_of_the_files_it_holds() -> None:
    """With SAEs of one's own under another average L0 nothing is linked, and the original's is never guessed."""
    own = repository(PT_2B, ["layer_0/width_16k/average_l0_99/params.npz"], name="/data/own")
    assert "average L0 of 105; it has 99" in refusal(PT_2B, own, layers="0", copy_of=PT_2B)
    ((sae,), _) = choose(PT_2B, own, layers="0", sae_l0="99", copy_of=PT_2B)
    assert sae.neuronpedia_id is None


@pytest.mark.parametrize("hub", ["/root/.cache/huggingface/hub", "/shared/a -- b/hub"])
def test_a_snapshot_of_the_hubs_cache_is_known_by_its_folder(hub: str) -> None:
    def snapshot(release: str, owner: str = "google") -> Repository:
        folder = f"{hub}/models--{owner}--{release.split('/')[-1]}/snapshots/{'a' * 40}"
        return replace(repository(release, name=folder), commit=None)

    for release in (PT_2B, IT_9B, "google/gemma-scope-2b-pt-att"):
        assert choose(release, snapshot(release))[0] == choose(release)[0]
    assert {sae.neuronpedia_id for sae in choose(PT_2B, snapshot(PT_2B, owner="somebody"))[0]} == {None}
    assert "is google/gemma-scope-2b-pt-res" in refusal(PT_2B, snapshot(PT_2B), copy_of=PT_9B)


@pytest.mark.parametrize("said", ["gemma-scope-2b-pt-res", "google/gemma-scope-2b", "~/saes"])
def test_what_is_no_original_is_refused_with_those_there_are(said: str) -> None:
    told = refusal(PT_2B, repository(PT_2B, name="/data/saes"), copy_of=said)
    assert all(name in told for name in (said, *RELEASES))


@pytest.mark.parametrize("release", RELEASES)
def test_the_site_is_that_of_the_original_s_name(release: str) -> None:
    """They fit by shape (-mlp and the transcoders), and at another site every number would be wrong."""
    site = SITES[release.split("-")[-1]]
    width = next(iter(canonical(release)))
    for held, copy_of in (
        (repository(release), ""),
        (repository(release, name=f"/data/{release}"), ""),
        (repository(release, name="/data/saes"), release),
    ):
        chosen, _ = choose(release, held, sae_width=width, copy_of=copy_of)
        assert {sae.site for sae in chosen} == {site}
        assert {sae.recipe.transcodes for sae in chosen} == {site == "transcoder"}
        other = next(each for each in SITES.values() if each != site)
        assert f"no SAEs of --site {other}; it has SAEs of {site}" in refusal(
            release, held, sae_width=width, copy_of=copy_of, site=other
        )


@pytest.mark.parametrize("site", SITES.values())
def test_where_no_name_says_the_site_whoever_asks_does(site: str) -> None:
    """A folder of any name: a copy of -mlp read as the residual stream's would be wrong everywhere, and fit."""
    for name in ("/data/saes", "/data/gemma-scope", "somebody/scope"):
        held = repository(PT_2B, name=name)
        chosen, _ = choose(PT_2B, held, site=site)
        assert {sae.site for sae in chosen} == {site}
        assert {sae.recipe.transcodes for sae in chosen} == {site == "transcoder"}
        guessed, _ = choose(PT_2B, held)
        assert [sae.path for sae in chosen] == [sae.path for sae in guessed]
        warned = Dictionary("first", held, tuple(guessed), 16_384).warnings
        assert [name in told and "resid_post is assumed" in told for told in warned] == [True]
        assert not Dictionary("first", held, tuple(chosen), 16_384).warnings, "it was said"


def test_where_the_name_says_the_site_nobody_is_warned() -> None:
    held = repository(PT_2B)
    assert not Dictionary("first", held, tuple(choose(PT_2B, held)[0]), 16_384).warnings


def test_min_and_max_are_the_ends_of_what_a_layer_has() -> None:
    held = catalogue(paths(PT_2B))
    for name, end in (("min", min), ("max", max)):
        chosen, _ = choose(PT_2B, sae_l0=name)
        assert [sae.l0 for sae in chosen] == [end(held[layer]["16k"]) for layer in range(26)]


def test_a_known_release_that_lost_its_canonical_sae_is_refused() -> None:
    """The nearest of the others would be taken for it."""
    without = repository(
        PT_2B, [path for path in paths(PT_2B) if path != "layer_20/width_16k/average_l0_71/params.npz"]
    )
    assert "average L0 of 71; it has 22, 38, 139, 294" in refusal(PT_2B, without)


def test_an_average_l0_of_zero_is_a_number_like_any_other() -> None:
    held = repository(PT_2B, ["layer_0/width_16k/average_l0_0/params.npz"], name="/saes")
    for name in ("canonical", "min", "max"):
        assert choose(PT_2B, held, sae_l0=name)[0][0].l0 == 0


# --- what is not there ------------------------------------------------------------------------------------------------


def test_files_outside_the_layout_are_passed_over() -> None:
    """`embedding/` among them, whose SAEs are of no layer."""
    odd = [
        "embedding/width_4k/average_l0_6/params.npz",
        "old/layer_1/width_16k/average_l0_6/params.npz",
        "layer_1/width_16k/average_l0_6/params.npz.bak",
        "layer_1/width_16k/average_l0_6.5/params.npz",
        "layer_1/width_16k/canonical/params.npz",
        "layer_-1/width_16k/average_l0_6/params.npz",
        "layer_1/width_16K/average_l0_6/params.npz",
    ]
    good = "layer_7/width_16k/average_l0_6/params.npz"
    assert catalogue([*odd, good]) == {7: {"16k": {6: good}}}
    told = refusal(PT_2B, repository(PT_2B, odd))
    assert "holds no SAEs: it has .gitattributes, README.md, embedding/width_4k/average_l0_6/params.npz …" in told
    assert len(told.splitlines()) == 2
    assert "has no SAEs of width 4k" in refusal(PT_2B, sae_width="4k")


def test_an_unknown_width_is_refused_with_the_widths_there_are() -> None:
    assert refusal(PT_2B, sae_width="8k").endswith("it has 16k, 32k, 65k, 131k, 262k, 524k, 1m.")


def test_an_unknown_l0_is_refused_with_those_of_the_layer() -> None:
    told = refusal(PT_2B, sae_l0="72", layers="20")
    assert "layer 20, width 16k with an average L0 of 72; it has 22, 38, 71, 139, 294." in told


@pytest.mark.parametrize(
    ("release", "width", "asked", "lacking", "held"),
    [
        (IT_9B, "16k", "9-11,20", "10, 11", "9,20,31"),
        (PT_27B, "131k", "0,10", "0", "10,22,34"),
        (PT_2B, "1m", "5-6", "6", "5,12,19"),
        (PT_2B, "65k", "24-25", "25", "0-24"),
    ],
)
def test_a_layer_without_an_sae_is_left_out_of_all_and_refused_when_asked_for(
    release: str, width: str, asked: str, lacking: str, held: str
) -> None:
    there = repository(release, [path for path in paths(release) if not path.startswith("layer_25/width_65k/")])
    chosen, missing = choose(release, there, sae_width=width)
    assert ranges(sae.layer for sae in chosen) == held
    assert missing == sorted(set(range(n_layers(release))) - {sae.layer for sae in chosen})
    told = refusal(release, there, sae_width=width, layers=asked)
    every = ", ".join(str(sae.layer) for sae in chosen)
    assert f"no SAE of width {width} for layer {lacking}; it has one for {every}." in told


def test_layers_that_the_model_lacks_are_refused_or_passed_over() -> None:
    """A larger model's SAEs beside a smaller model: the layers above would never be filled."""
    assert "layer 26; the model has the layers 0 to 25" in refusal(PT_2B, layers="3,26")
    chosen, missing = choose(PT_9B, model_layers=26)
    assert ([sae.layer for sae in chosen], missing) == (list(range(26)), [])
    with pytest.raises(UsageError, match="no layer of this model"):
        choose(PT_27B, model_layers=5, sae_width="131k")


# --- names of layers --------------------------------------------------------------------------------------------------


@given(st.frozensets(st.integers(0, 9999), min_size=1) | st.frozensets(st.integers(0, 12), min_size=1))
def test_ranges_are_what_layers_reads(layers: frozenset[int]) -> None:
    """The manifest's layers can be given back to --layers."""
    text = ranges(layers)
    assert parse_layers(text) == layers
    runs = [list(map(int, run.split("-"))) for run in text.split(",")]
    assert all(later[0] > earlier[-1] + 1 for earlier, later in pairwise(runs))  # as short as can be
