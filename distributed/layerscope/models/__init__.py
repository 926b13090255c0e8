"""Language models: what a repository holds, loading, one pass over pairs with hooks."""
