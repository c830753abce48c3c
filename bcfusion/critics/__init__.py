"""Critics: networks that predict the score that a quality metric gives to an estimate."""
