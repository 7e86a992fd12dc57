"""Shaping: the limits of a path, and the pace they allow."""
