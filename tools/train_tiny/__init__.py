"""Training of `intarsia-tiny`: scenes drawn by code, a small autoencoder, a small denoiser, their measurement."""
