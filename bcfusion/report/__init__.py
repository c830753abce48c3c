"""What a person looks at: tables of quality, pictures, the comparison of runs, pages to inspect and to listen."""
