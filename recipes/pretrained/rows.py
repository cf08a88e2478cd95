"""The models that the recipe of pretrained models compares, as its table and plots have them."""

from recipes.memories import MEMORIES, Memory

BASE, SHORT, WIDER, LONG = "base", "finetuned", "window", "ceiling"  # those without a memory
WITHOUT = {"long-term-memory": "none"}
GIBBS, HITTERS = MEMORIES["gibbs"], MEMORIES["heavy-hitters"]
ROWS = {
    row.name: row
    for row in (
        Memory(BASE, "pretrained model", "#6b7280", ":", WITHOUT),
        Memory(SHORT, "fine-tuned", "#6b7280", "-", WITHOUT),
        # A window that is wider by as many vectors as a memory keeps.
        Memory(WIDER, "fine-tuned, window of as many vectors", "#374151", "-.", WITHOUT),
        MEMORIES["compressive"],
        HITTERS._replace(options=HITTERS.options | {"ltm-lr-scale": "100"}),  # nothing learns of it but its gate
        MEMORIES["continuous"],
        GIBBS,
        # Gradients through all segments of an update; how many they are depends on their length.
        GIBBS._replace(name="gibbs-bptt", label=f"{GIBBS.label}, trained through segments", line="--"),
        Memory(LONG, "fine-tuned, long window", "#111827", "--", WITHOUT),
    )
}
