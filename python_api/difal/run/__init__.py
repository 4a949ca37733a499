"""A run: its directory, its labels and who gives them, and the loop."""
