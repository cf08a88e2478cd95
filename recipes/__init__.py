"""The experiments of this project, what they have in common, and what reads their results."""
