"""The record and the manifest: bytes, the append-only file, reading back, status, verify. No torch, no Ray, no hub."""
