"""The page of ``bcfusion listen``, the sounds on it, and the analysis of ratings."""
