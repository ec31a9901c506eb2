"""The algorithms, one folder each, and the contract they fulfil."""
