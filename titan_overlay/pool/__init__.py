"""Objects: hosting them, finding them, keeping copies of them alive."""
