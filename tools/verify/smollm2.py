"""The smollm2 part: SmolLM2-135M against published logits and greedy tokens, and against transformers on the same weights.

The GGUF's weights are dequantised to float32 first, since a GPU takes no quantised ones. All prompts are branches of one
forest and decode together.
"""

import json
import pathlib
import subprocess

import torch
from compare import Errors, run_engine
from reference import Reference


def make_request(reference: dict, model: pathlib.Path, device: str) -> dict:
    """Branch p0, p1, ... for the prompts; t0.0, t0.1, ... for the branches of the trees."""
    prompts = {f"p{index}": prompt["ids"] for index, prompt in enumerate(reference["prompts"])}
    prefixes = {f"t{index}": tree["prefix_ids"] for index, tree in enumerate(reference["trees"])}
    leaves = {f"t{index}": {f"t{index}.{child}": branch["ids"] for child, branch in enumerate(tree["branches"])}
              for index, tree in enumerate(reference["trees"])}
    step = {"attention": None, "prune": [], "byDecode": False}
    return {
        "model": str(model), "nanToken": None, "prompt": [], "greedyTokens": 48,
        "options": {"device": device, "kvTokens": 8192, "maxStepTokens": 64},
        "rounds": [
            step | {"fork": [{"parent": "r", "children": [*prompts, *prefixes]}], "tokens": prompts | prefixes},
            step | {"fork": [{"parent": name, "children": list(children)} for name, children in leaves.items()],
                    "prune": ["r"], "tokens": {name: ids for children in leaves.values() for name, ids in children.items()}},
        ],
    }


def compare_smollm2(gguf: pathlib.Path, reference_file: pathlib.Path, folder: pathlib.Path, options, table, node) -> None:
    """Adds the lines of this part to the table."""
    reference = json.loads(reference_file.read_text())
    model = folder / "model"
    subprocess.run(node(options, "gguf-to-folder", gguf, model), check=True, timeout=120)
    request = make_request(reference, model, options.device)
    (folder / "request.json").write_text(json.dumps(request))
    result, rows = run_engine(folder / "request.json", folder, options, node)
    names = [name for step in request["rounds"] for name in step["tokens"]]
    ours = dict(zip(names, rows, strict=True))

    given = {f"p{index}": prompt | {"path": prompt["ids"]} for index, prompt in enumerate(reference["prompts"])}
    for index, tree in enumerate(reference["trees"]):
        for child, branch in enumerate(tree["branches"]):
            given[f"t{index}.{child}"] = branch | {"path": tree["prefix_ids"] + branch["ids"]}
    prompts = reference["prompts"]
    greedy_paths = [prompt["ids"] + prompt["greedy_ids"][:count]
                    for prompt in prompts for count in range(len(prompt["greedy_ids"]))]
    paths = [numbers["path"] for numbers in given.values()] + greedy_paths
    half = Reference(model, options.device).logits(paths)
    exact = Reference(model, options.device, torch.float32).logits(paths)
    # How far bfloat16 moves the lead of the likeliest token over the next one, where all go the published way.
    best = exact[len(given) :].topk(2)
    lead_error = best.values - half[len(given) :].gather(1, best.indices)
    lead_bound = 2 * float((lead_error[:, 0] - lead_error[:, 1]).abs().max())
    half, exact = half[: len(given)], exact[: len(given)]
    logits = torch.stack([ours[name] for name in given])

    error, allowed = Errors(logits, exact), Errors(half, exact)
    for name in ("norm", "worst_row", "largest"):
        value, limit = getattr(error, name), 2 * getattr(allowed, name)
        table.add("smollm2", f"logits of {len(given)} branches, {name.replace('_', ' ')}", f"{value:.3e}",
                  f"{limit:.3e} ({value / limit * 2:.2f} of bf16's own)", value <= limit)

    def top_error(rows: torch.Tensor) -> float:
        return max(float((row[numbers["top_ids"]] - torch.tensor(numbers["top_logits"])).abs().max())
                   for row, numbers in zip(rows, given.values(), strict=True))

    bound = 2 * top_error(half)
    table.add("smollm2", "published top logits, largest difference", f"{top_error(logits):.3e}",
              f"{bound:.3e} (transformers' float32 here {top_error(exact):.1e})", top_error(logits) <= bound)

    same = sure = total = 0
    wrong = []
    for index, prompt in enumerate(prompts):
        tokens, expected = result["greedy"][f"p{index}"]["tokens"], prompt["greedy_ids"]
        # Until the first token whose lead is within what it may be wrong by: from there on the paths may differ.
        tie = next((at for at, margin in enumerate(prompt["greedy_margins"]) if margin <= lead_bound), len(expected))
        same += sum(1 for a, b in zip(tokens, expected, strict=False) if a == b)
        total += len(expected)
        sure += tie
        if tokens[:tie] != expected[:tie]:
            wrong.append(prompt["name"])
    table.add("smollm2", "published greedy tokens", f"{same} of {total} the same",
              f"the first {sure} that lead by more than {lead_bound:.2f}" + (f"; wrong: {wrong}" if wrong else ""),
              not wrong)
