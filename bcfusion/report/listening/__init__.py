"""The page of `bcfusion listen`, the sounds on it, and what becomes of ratings."""
