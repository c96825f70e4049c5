"""Data cards: one YAML file a data set, and the code that prepares, checks and splits them."""
