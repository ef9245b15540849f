"""Objects that come with Titan Overlay, built on its public API alone."""
