"""Which Gemma Scope features fire while Gemma-2 weighs two solutions to a question, at data-set scale, on Ray."""

__version__ = "0.1.0"
