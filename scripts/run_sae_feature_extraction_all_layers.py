#!/usr/bin/env python3
"""Runs the main job: the options of `layerscope run`, under the name of the single-GPU script that it replaces.

`ray submit` copies this file alone to the head of a cluster and hands it the command line unquoted, so the package must
be installed there, and a value with blanks arrives as several words.
"""

import sys

try:
    from layerscope.__main__ import main
except ModuleNotFoundError as error:
    if error.name != "layerscope":
        raise
    sys.exit(
        f"layerscope is not installed for {sys.executable}.\n"
        "On a cluster `ray up cluster.yaml` installs it; elsewhere: pip install FOLDER_OF_THE_CHECKOUT"
    )


def rejoined(words: list[str]) -> list[str]:
    """The words with each value whole again: options take one value at most, so all that follows the first is its."""
    whole: list[str] = []
    for word in words:
        in_value = len(whole) > 0 and (not whole[-1].startswith("--") or "=" in whole[-1])
        if in_value and not word.startswith("--"):
            whole[-1] += f" {word}"
        else:
            whole.append(word)
    return whole


sys.argv[1:] = rejoined(sys.argv[1:])
main(["run", *sys.argv[1:]])
