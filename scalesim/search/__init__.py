"""From a law and a cost to a design."""
