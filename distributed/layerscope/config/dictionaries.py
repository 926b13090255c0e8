"""What `--dictionary` means: further SAEs beside those of `--sae-repo`, each set with a name of its own."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from layerscope.errors import UsageError

FIRST = "first"
"""What the SAEs of `--sae-repo` are called among several; no other set may have this name."""
DICTIONARY_NAME = r"[A-Za-z][A-Za-z0-9_-]{0,39}"
L0 = (
    r"(nearest:)?[1-9]\d{0,6}|canonical|min|max|(small|medium|big)(_affine)?(_seed_\d+)?"
    r"|(?=.*[/_.])[A-Za-z_][\w.-]*(/[\w.-]+)*"  # a folder of SAELens's
)
WIDTH = r"auto|[1-9]\d*[km]?"
_SITES = "auto|resid_post|attn_out|mlp_out|transcoder"
_PARTS = {"site": _SITES, "width": WIDTH, "l0": L0, "revision": r"[\w./-]{1,100}", "id": r"[\w./-]{1,100}"}


class DictionaryAsked(NamedTuple):
    """A set of SAEs as the command line asks for it; every part as the option of the first set that is like it."""

    name: str
    repo: str
    """`auto` is the repository of the first set, or the suite's of the site."""
    site: str = "auto"
    width: str = "auto"
    l0: str = "canonical"
    revision: str = "main"
    id: str = ""


def parse_dictionaries(texts: Sequence[str]) -> tuple[DictionaryAsked, ...]:
    """What all `--dictionary` together ask for.

    Raises:
        UsageError: one is not of the form NAME=REPO,site=attn_out,width=16k,l0=71, or a name is there twice.
    """
    found: dict[str, DictionaryAsked] = {}
    for text in texts:
        asked = _parsed(text)
        if asked.name in found or asked.name == FIRST:
            whose = "that of the SAEs of --sae-repo" if asked.name == FIRST else "there twice"
            raise UsageError(f"--dictionary {text[:80]}: the name {asked.name} is {whose}.\nGive each its own.")
        found[asked.name] = asked
    return tuple(found.values())


def _parsed(text: str) -> DictionaryAsked:
    where, *more = re.split(rf",(?=(?:{'|'.join(_PARTS)})=)", text)
    name, equals, repo = where.partition("=")
    parts = [(key, value) for key, _, value in (each.partition("=") for each in more)]
    wrong = [f"{key}={value}" for key, value in parts if not re.fullmatch(_PARTS[key], value)]
    if not re.fullmatch(DICTIONARY_NAME, name):
        wrong.append(f"the name {name[:40]!r}")
    if not equals or not repo:
        wrong.append("no repository")
    if len(dict(parts)) < len(parts):
        wrong.append("a part twice")
    if wrong:
        raise UsageError(
            f"--dictionary is {text[:120]!r}, with {', '.join(wrong)}.\n"
            "It is NAME=REPO, and behind that what is wanted of site, width, l0, revision and id: "
            "wide=google/gemma-scope-2b-pt-res,width=65k. A name is letters, digits, _ and -."
        )
    return DictionaryAsked(name, repo, **dict(parts))
