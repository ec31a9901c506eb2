"""Workers of a run: plain classes, and the Ray actors that wrap them."""
