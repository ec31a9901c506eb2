"""Networks and distributions that algorithms share."""
