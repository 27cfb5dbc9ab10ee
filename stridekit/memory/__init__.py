"""Where arrays lie, how they lie there, and what is kept on disk."""
