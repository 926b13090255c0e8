"""Records as tables: notebooks, exports, two runs side by side. No torch, no Ray."""
