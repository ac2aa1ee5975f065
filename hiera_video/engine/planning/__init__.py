"""What a training run will cost, found out before it starts."""
