"""The job `train-autoencoder`."""
