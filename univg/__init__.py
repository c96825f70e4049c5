"""UniVG: five annotated vessel images in, a labelled synthetic data set and a segmenter out.

Importing this package loads nothing heavy; each stage is imported when it is used.
"""

__version__ = "0.1.0"
