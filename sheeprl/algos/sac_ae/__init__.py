"""SAC with a regularized autoencoder."""
