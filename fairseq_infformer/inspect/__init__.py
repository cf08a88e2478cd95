"""Looking into a memory: where its layers look, what it holds there, and what that is worth."""
