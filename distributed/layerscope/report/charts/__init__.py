"""The charts: figures to SVG. What they say in words is beside them."""
