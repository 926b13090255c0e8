"""The chat template of a model's tokeniser as a prompt: the text that transformers makes of the same chat."""

import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from layerscope.errors import UsageError
from layerscope.hub.repository import open_repository
from layerscope.models.chat import chat_prompt
from layerscope.questions.pairs import PairTokenizer
from layerscope.questions.sources import Question

# As google/gemma-2-2b-it has it.
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}"
    "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}"
    "{% endif %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{'<start_of_turn>model\n'}}{% endif %}"
)
WITH_SYSTEM = "{% for message in messages %}[{{ message['role'] }}] {{ message['content'] }}\n{% endfor %}>"
USER_ONLY = "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}:"


def model(tiny: Path, folder: Path, template: object, jinja: bool = False) -> Path:
    """The tiny stand-in's tokeniser with a chat template."""
    shutil.copytree(tiny / "model", folder / "model")
    config = folder / "model" / "tokenizer_config.json"
    if jinja:
        (folder / "model" / "chat_template.jinja").write_text(str(template))
    else:
        config.write_text(json.dumps({**json.loads(config.read_text()), "chat_template": template}))
    return folder / "model"


@pytest.mark.parametrize("jinja", [False, True])
@pytest.mark.parametrize("goal", ["soap", "  two words\n"])
def test_the_prompt_has_the_tokens_of_the_template_as_transformers_fills_it(
    tiny: Path, tmp_path: Path, jinja: bool, goal: str
) -> None:
    folder = model(tiny, tmp_path, GEMMA, jinja)
    prompt = chat_prompt(open_repository(str(folder)), "", "")
    assert prompt.told() == "<start_of_turn>user\n{goal, stripped}<end_of_turn>\n<start_of_turn>model\n{solution}"
    pair = PairTokenizer(folder / "tokenizer.json", 8192, prompt).pair(Question(0, goal, "rub it", "eat", 0))
    reference = AutoTokenizer.from_pretrained(folder)
    text = reference.apply_chat_template(
        [{"role": "user", "content": goal}], add_generation_prompt=True, tokenize=False
    )
    assert list(pair.tokens[: pair.prompt]) == reference(text, add_special_tokens=False)["input_ids"]
    whole = reference(f"{text}rub it", add_special_tokens=False)["input_ids"]
    assert [*pair.tokens[: pair.prompt], *pair.solution_tokens(0)] == whole


def test_a_system_text_goes_where_the_template_has_a_place_for_it(tiny: Path, tmp_path: Path) -> None:
    folder = model(tiny, tmp_path, [{"name": "tools", "template": "x"}, {"name": "default", "template": WITH_SYSTEM}])
    prompt = chat_prompt(open_repository(str(folder)), "Be brief.", " ")
    assert prompt.told() == "[system] Be brief.\n[user] {goal}\n> {solution}"


@pytest.mark.parametrize(
    ("template", "system", "told"),
    [
        (
            GEMMA,
            "Be brief.",
            r"--system-prompt: .* has no place for a system text \(it says: System role not supported\)",
        ),
        (USER_ONLY, "Be brief.", r"--system-prompt: .* has no place for a system text \(it is passed over\)"),
        ("always the same", "", r"--prompt chat: .* passes over the user's message"),
        ("{{ nothing.there }}", "", r"--prompt chat: .* cannot be used: 'nothing' is undefined"),
        ("{% for", "", r"--prompt chat: .* cannot be used"),
        (None, "", r"--prompt chat: .* has no chat template"),
    ],
)
def test_what_a_template_cannot_do_is_refused_in_two_lines(
    tiny: Path, tmp_path: Path, template: str | None, system: str, told: str
) -> None:
    folder = model(tiny, tmp_path, template)
    with pytest.raises(UsageError, match=told) as caught:
        chat_prompt(open_repository(str(folder)), system, "")
    assert str(caught.value).count("\n") == 1
