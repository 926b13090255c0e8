"""An actor's imports leave out what costs seconds and is not used, and take it from nobody."""

import subprocess
import sys
from pathlib import Path

import pytest

from layerscope.models.lean_import import Compiler

PROGRAM = """
import sys
from layerscope.models.lean_import import import_transformers
import_transformers()
import layerscope.models.loading
from transformers.utils import is_scipy_available
assert is_scipy_available(), "who asks later hears the truth"
print(*{"scipy", "torch._inductor", "torch._dynamo.eval_frame", "torch.distributed.tensor"}.intersection(sys.modules))
"""


def test_a_process_of_a_model_has_no_compiler_and_no_optimiser() -> None:
    """Another version of transformers asks for them by another way, and every start takes 3 s more."""
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr, told.stdout.split()) == (0, "", [])


def test_whoever_asks_for_more_gets_the_real_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by the module that stands in, and with what was imported from below it meanwhile."""
    package = tmp_path / "made_up_compiler"
    package.mkdir()
    (package / "__init__.py").write_text("def disable(function):\n    return None\n\n\nreset = 'the real one'\n")
    (package / "below.py").write_text("number = object()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    lean = Compiler("made_up_compiler", str(package))
    monkeypatch.setitem(sys.modules, "made_up_compiler", lean)
    monkeypatch.delitem(sys.modules, "made_up_compiler.below", raising=False)
    assert lean.disable(print) is lean.disable()(print) is lean.allow_in_graph(print) is print
    assert lean.assume_constant_result(print) is print
    assert not hasattr(lean, "__file__")

    from made_up_compiler.below import number  # type: ignore[import-not-found]

    assert sys.modules["made_up_compiler"] is lean
    assert lean.reset == "the real one"
    real = sys.modules["made_up_compiler"]
    assert real is not lean
    assert real.disable(print) is None
    assert real.below.number is number
