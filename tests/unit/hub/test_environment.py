"""Where the hub's files are kept, and whom it is asked, when the environment says nothing with an empty variable."""

import json
import os
import subprocess
import sys
from pathlib import Path

ASK = "import json; from layerscope.hub import cache, repository; from huggingface_hub import constants as c; "
ANSWER = "print(json.dumps([str(cache.cache_folder()), c.HF_HUB_CACHE, c.ENDPOINT, c.HF_TOKEN_PATH]))"


def test_an_empty_variable_is_one_that_is_not_set(tmp_path: Path) -> None:
    """The library takes an empty HF_HOME for the working folder, and fills that."""
    names = ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN_PATH", "XDG_CACHE_HOME")
    done = subprocess.run(
        [sys.executable, "-c", ASK + ANSWER],
        cwd=tmp_path,
        env={**os.environ, **dict.fromkeys(names, ""), "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=True,
    )
    home = tmp_path / "home/.cache/huggingface"
    assert json.loads(done.stdout) == [f"{home}/layerscope", f"{home}/hub", "https://huggingface.co", f"{home}/token"]
    assert not [path for path in tmp_path.iterdir() if path.name != "home"]
