"""The models that the recipe of pretrained models compares, as its table and plots have them."""

from recipes.memories import MEMORIES, Memory

BASE, SHORT, LONG = "base", "finetuned", "ceiling"  # those without a memory
WITHOUT = {"long-term-memory": "none"}
GIBBS = MEMORIES["gibbs"]
ROWS = {
    row.name: row
    for row in (
        Memory(BASE, "pretrained model", "#6b7280", ":", WITHOUT),
        Memory(SHORT, "fine-tuned", "#6b7280", "-", WITHOUT),
        MEMORIES["compressive"],
        MEMORIES["heavy-hitters"],
        MEMORIES["continuous"],
        GIBBS,
        # Gradients through all segments of an update; how many they are depends on their length.
        GIBBS._replace(name="gibbs-bptt", label=f"{GIBBS.label}, trained through segments", line="--"),
        Memory(LONG, "fine-tuned, long window", "#111827", "--", WITHOUT),
    )
}
