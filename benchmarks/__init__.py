"""Figures, each from a run that measures us and a peer side by side."""
