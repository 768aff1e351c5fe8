"""A researcher's own package: it adds to psec_jax and experiments, and changes no file of them."""
