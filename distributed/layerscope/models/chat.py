"""The chat template of a model's tokeniser, as the prompt of a run; no weights, no torch."""

from typing import Any

from layerscope.errors import UsageError
from layerscope.hub import repository as hub
from layerscope.hub.repository import Repository
from layerscope.models.json_files import read_json
from layerscope.questions.pairs import BOS
from layerscope.questions.prompts import GOAL, Prompt

_TEMPLATE, _TOKENIZER_CONFIG = "chat_template.jinja", "tokenizer_config.json"
_DEFAULT = "default"  # of several templates the one that transformers takes


def chat_prompt(repository: Repository, system: str, separator: str) -> Prompt:
    """A question as the user's message of a chat, and the beginning of the model's answer.

    Args:
        system: text of the system; empty for none.
        separator: between that beginning and a solution.

    Raises:
        UsageError: the tokeniser has no chat template, or one with no place for a system text or a user's message.
    """
    source = _template(repository)
    marked = f" {GOAL} "  # shows whether the template takes white space away
    text = _rendered(repository, source, system, marked)
    if system and system.strip() not in text:
        raise _no_system(repository, "it is passed over")
    if GOAL not in text:
        raise UsageError(
            f"--prompt chat: the chat template of {repository.name} passes over the user's message.\n"
            "Write the prompt out with --prompt."
        )
    return Prompt(text.replace(marked, GOAL).removeprefix(BOS), separator, strip_goal=marked not in text)


def _template(repository: Repository) -> str:
    found: Any = None
    if _TEMPLATE in repository.files:
        found = hub.fetch(repository, _TEMPLATE).read_text(encoding="utf-8", errors="replace")
    elif _TOKENIZER_CONFIG in repository.files:
        found = read_json(repository, _TOKENIZER_CONFIG, "").get("chat_template")
        if isinstance(found, list):
            found = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}.get(_DEFAULT)
    if not isinstance(found, str) or not found:
        raise UsageError(
            f"--prompt chat: {repository.name} has no chat template; a model that was trained for chats has one.\n"
            "Take such a model (for Gemma one with -it in its name), or write the prompt out with --prompt."
        )
    return found


def _rendered(repository: Repository, source: str, system: str, message: str) -> str:
    import jinja2  # here, because hardly a run needs it
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(words: str) -> None:
        raise jinja2.TemplateError(words)

    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": message})
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals["raise_exception"] = refuse
    try:
        return environment.from_string(source).render(messages=messages, add_generation_prompt=True, bos_token=BOS)
    except jinja2.TemplateError as error:
        if system:
            raise _no_system(repository, f"it says: {str(error)[:100]}") from error
        raise UsageError(
            f"--prompt chat: the chat template of {repository.name} cannot be used: {str(error)[:200]}.\n"
            "Write the prompt out with --prompt."
        ) from error


def _no_system(repository: Repository, why: str) -> UsageError:
    return UsageError(
        f"--system-prompt: the chat template of {repository.name} has no place for a system text ({why}).\n"
        "Leave it out, or write the prompt out with --prompt."
    )
