"""What is the same for every recipe that trains language models."""
