"""Shaping: the limits of a path and the pace they allow; what follows from replies that say something about us."""
