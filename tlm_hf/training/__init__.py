"""Training: pre-training, fine-tuning and committees, thin layers over transformers.Trainer."""
