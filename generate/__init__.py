"""Generation: images for masks. Masks, the quality gate and exporters have no room yet."""
