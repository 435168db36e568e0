"""What a training run makes of its weights now and then: samples of fixed requests."""
