"""Models that chat and run here: prompts to tokens, tokens to text, by an engine that answers many requests in one batch."""
