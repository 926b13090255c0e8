"""Where things are that tests use."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The checkout."""
FAULTS = ROOT / "tests/support/faults"
"""On `PYTHONPATH`, its `sitecustomize.py` breaks what `LAYERSCOPE_FAULT` names."""
DATA = ROOT / "tests/support/data"
