"""Runs in object storage: parts that never change, a lock, and the store's answers in words."""
