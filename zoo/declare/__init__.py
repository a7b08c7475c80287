"""What a user writes: fields, hyperparameters and a generative story."""
