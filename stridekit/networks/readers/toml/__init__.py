"""Network files: one line a layer."""
