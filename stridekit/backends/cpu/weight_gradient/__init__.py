"""The weights' gradient: a sum over output pixels, cut into chains of a fixed order."""
