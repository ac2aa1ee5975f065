"""From lists of videos to batches of clips."""
