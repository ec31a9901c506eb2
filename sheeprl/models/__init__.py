"""Networks and action distributions shared by algorithms."""
