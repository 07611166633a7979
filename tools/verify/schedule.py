"""The work that both sides do: a prompt in chunks, then 64 steps on a branching tree.

A schedule is plain data (a JSON request for model.ts); `rows_of` says which tokens lead to each row of logits it writes.
"""

import collections
import random

# Steps with the policies other than the default, which has all the others. flash-decoding comes last: it copies KV.
POLICIES = {40: "deft-node", 45: "deft-node-chunk", 50: "radix", 55: "medusa", 60: "flash-decoding"}
FORKS = {0: [("r", 4)], 8: [("r.1", 2), ("r.2", 2)], 20: [("r.2.1", 3)], 30: [("r.0", 20)], 33: [("r", 1), ("r.3", 2)]}
PRUNES = {14: ["r.1"], 31: [f"r.0.{child}" for child in range(19)], 44: ["r.2.0", "r"], 58: ["r.3.1"]}
STEPS = 64
GREEDY_TOKENS = 12


def make_schedule(vocab_size: int, prompt_chunks: list[int], seed: int = 1) -> dict:
    """Random tokens below vocab_size - 1. Every step gives each live branch a token (every 16th step three); even steps
    extend it, odd steps decode it with a bias that leaves one token."""
    rng = random.Random(seed)

    def tokens(count: int) -> list[int]:
        return [rng.randrange(vocab_size - 1) for _ in range(count)]

    live, rounds = ["r"], []
    num_children = collections.Counter()
    for step in range(STEPS):
        forks = []
        for parent, count in FORKS.get(step, []):
            first = num_children[parent]
            num_children[parent] += count
            forks.append({"parent": parent, "children": [f"{parent}.{first + child}" for child in range(count)]})
        live += [child for fork in forks for child in fork["children"]]
        prunes = PRUNES.get(step, [])
        live = [branch for branch in live if branch not in prunes]
        by_decode = step % 2 == 1
        count = 3 if step % 16 == 4 else 1
        rounds.append({"attention": POLICIES.get(step), "fork": forks, "prune": prunes, "byDecode": by_decode,
                       "tokens": {branch: tokens(1 if by_decode else count) for branch in live}})
    return {"prompt": [tokens(count) for count in prompt_chunks], "rounds": rounds, "greedyTokens": GREEDY_TOKENS}


def rows_of(schedule: dict) -> tuple[list[list[int]], dict[str, list[int]]]:
    """Paths (all tokens from the root) whose last token each row of logits follows, and those of the final branches."""
    paths: dict[str, list[int]] = {"r": []}
    rows = []
    for chunk in schedule["prompt"]:
        paths["r"] = paths["r"] + chunk
        rows.append(paths["r"])
    for step in schedule["rounds"]:
        for fork in step["fork"]:
            paths |= {child: paths[fork["parent"]] for child in fork["children"]}
        for branch in step["prune"]:
            del paths[branch]
        for branch, added in step["tokens"].items():
            paths[branch] = paths[branch] + added
            rows.append(paths[branch])
    return rows, paths
