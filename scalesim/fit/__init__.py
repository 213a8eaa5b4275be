"""From measured runs to a law."""
