"""What a person looks at: spectrogram pictures and tables of quality."""
