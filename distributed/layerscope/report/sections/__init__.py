"""The sections of a page: a chart or a table each, with its words."""
