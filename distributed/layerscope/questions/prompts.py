"""What stands before a solution: a template with a place for the question.

The control tokens of a template (a chat's turns) are tokens; whatever of a question looks like one is text.
"""

from dataclasses import dataclass

from layerscope.questions.shots import Shots

GOAL = "{goal}"
PROMPT = "Question: {goal}\nSolution:"


@dataclass(frozen=True)
class Prompt:
    """How a question and a solution become one text, which begins with BOS: the template, the separator, the solution.

    The template ends where the prompt ends: its tokens are those that are not scored. A blank at the end of a prompt
    would be a token of its own, and the first word of the solution another one than it is in the text.
    """

    template: str = PROMPT
    separator: str = " "
    strip_goal: bool = False
    """White space around a question is left out, as some chat templates do."""
    shots: Shots | None = None
    """Examples that stand before, each as the template has a question, with its right solution."""

    def goal(self, goal: str) -> str:
        """A question as the text has it."""
        return goal.strip() if self.strip_goal else goal

    def told(self) -> str:
        """For the manifest and for people; with where the prompt ends, unless that is before the blanks at the end.

        What comes behind is scored: two prompts of the same text are two settings, should they end elsewhere.
        """
        template = self.template.replace(GOAL, "{goal, stripped}") if self.strip_goal else self.template
        where_any_ends = (self.template + self.separator).rstrip(" \t")
        end = "" if where_any_ends == self.template else "{end of prompt}"
        return f"{template}{end}{self.separator}{{solution}}"


DEFAULT = Prompt()
