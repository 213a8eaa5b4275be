"""Tables that the package ships, each with its source."""
