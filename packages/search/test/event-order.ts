/** Checks that a stream of events is well formed: each event in a state that allows it. Throws on the first that is not. */
import type { SearchEvent, ThoughtId } from "../src/events.js";

type Phase = "started" | "finished" | "scored" | "pruned";

export function checkEventOrder(events: readonly SearchEvent<unknown, unknown>[]): void {
  const phases = new Map<ThoughtId, Phase>([[0, "scored"]]);
  const depths = new Map<ThoughtId, number>([[0, 0]]);
  const interrupted = new Set<ThoughtId>();
  let solution: ThoughtId | undefined;

  const demand = (condition: boolean, event: SearchEvent<unknown, unknown>) => {
    if (!condition) throw new Error(`out of order: ${JSON.stringify(event)}`);
  };
  events.forEach((event, i) => {
    demand((event.type === "search:started") === (i === 0), event);
    demand((event.type === "done") === (i === events.length - 1), event);
    switch (event.type) {
      case "thought:started":
        demand(event.thought === phases.size, event);
        demand(depths.has(event.parent) && event.depth > depths.get(event.parent)!, event);
        phases.set(event.thought, "started");
        depths.set(event.thought, event.depth);
        break;
      case "thought:tokens":
        demand(phases.get(event.thought) === "started", event);
        break;
      case "thought:finished":
        demand(phases.get(event.thought) === "started", event);
        phases.set(event.thought, "finished");
        if (event.finishReason === "cut" || event.finishReason === "aborted") interrupted.add(event.thought);
        break;
      case "thought:scored":
        demand(["finished", "scored"].includes(phases.get(event.thought)!) && !interrupted.has(event.thought), event);
        phases.set(event.thought, "scored");
        break;
      case "thought:pruned":
        demand(phases.get(event.thought) === (interrupted.has(event.thought) ? "finished" : "scored"), event);
        phases.set(event.thought, "pruned");
        break;
      case "level:selected":
        for (const id of [...event.kept, ...event.dropped]) demand(phases.get(id) === "scored", event);
        break;
      case "solution":
        demand(solution === undefined && !interrupted.has(event.thought), event);
        demand(["scored", "pruned"].includes(phases.get(event.thought)!), event);
        solution = event.thought;
        break;
      case "done":
        for (const phase of phases.values()) demand(phase !== "started", event);
        break;
    }
  });
}
