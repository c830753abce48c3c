"""Results for people: tables of quality, figures, the comparison of runs, pages to inspect data and to listen."""
