"""Where the hub's files are kept, and whom it is asked, when the environment says nothing with an empty variable."""

import json
import os
import subprocess
import sys
import traceback
from pathlib import Path

import httpx2
import pytest

from layerscope.errors import UsageError
from layerscope.hub.environment import check_endpoint, through_proxies

SECRET = "s3cr3t"
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


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HF_ENDPOINT", f"http://alice:{SECRET}/@mirror:8080"),
        ("HF_ENDPOINT", f"http://alice:{SECRET}#@mirror"),
        ("HF_ENDPOINT", "http://mirror:port"),
    ],
)
def test_an_endpoint_that_is_no_address_is_told_as_that(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub's client parses it when it is imported, and prints a traceback with the beginning of the password."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match="HF_ENDPOINT is no address") as caught:
        check_endpoint()
    assert "s3cr" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("all_proxy", f"socks5://alice:{SECRET}@proxy:1080", "SOCKS proxy needs a package"),
        ("HTTPS_PROXY", f"http://alice:{SECRET}#@proxy:3128", "no address of a proxy"),
        ("https_proxy", f"ftp://alice:{SECRET}@proxy", "no address of a proxy"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable(
    variable: str, value: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever works behind one gets two lines, not the traceback of a library that never heard of the variable."""
    monkeypatch.setenv(variable, value)
    monkeypatch.setitem(sys.modules, "socksio", None)
    with pytest.raises(UsageError, match=f"^The proxy in {variable}.*{told}") as caught:
        through_proxies(httpx2.Client)
    assert "s3cr" not in str(caught.value)
