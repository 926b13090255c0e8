"""`python -m layerscope` is the `layerscope` command."""

from layerscope.cli import main

main()
