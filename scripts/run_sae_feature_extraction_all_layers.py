#!/usr/bin/env python3
"""Runs the main job: the options of `layerscope run`, under the name of the single-GPU script that it replaces."""

import sys

from layerscope.cli import main

main(["run", *sys.argv[1:]])
