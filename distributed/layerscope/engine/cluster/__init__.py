"""Ray itself: joining or starting it, its nodes, its logs and metrics, and when it dies."""
