"""The wide search's peers: how a problem is posed to them, and how each is run (`wide_peers`)."""
