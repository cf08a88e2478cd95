"""Speech: audio, its features, and how late a translation of it is."""
