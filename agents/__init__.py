"""What the models are asked, and how they are reached."""
