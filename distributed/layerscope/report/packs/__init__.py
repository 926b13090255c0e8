"""What the page's script opens on a click: questions, features and tokens, bounded and packed."""
