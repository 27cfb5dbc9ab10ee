"""The pictures of a comparison. They only show what was measured."""
