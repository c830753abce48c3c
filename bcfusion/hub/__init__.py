"""Models on the Hugging Face hub: what is uploaded, the card beside it, and the way there and back."""
