"""Training: mask pretraining and adaptation, image pretraining and adaptation. Nothing here yet."""
