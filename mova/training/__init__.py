"""Training: both towers and the bridge learn together, from clips with sound and captions."""
