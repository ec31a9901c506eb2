"""Figures and tables made from committed results."""
