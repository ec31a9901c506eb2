"""Where the pieces of a run live: plain classes, and thin Ray shells around them."""
