"""Finding: from a name to a live copy, and calling it."""
