"""A page on loopback to explore designs: `View` is what it shows, and everything on it follows from that."""

from scalesim.app.start import Explorer, explore
from scalesim.app.view import View

__all__ = ["Explorer", "View", "explore"]
