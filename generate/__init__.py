"""Generation: masks, images, the quality gate and exporters. Nothing here yet."""
