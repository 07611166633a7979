/** What a model is asked about an answer or a part of one; the same for all tasks but for the words of the task. */
import { readChoice, readLabel, type ValueQuestion, type VoteQuestion } from "@deftree/search";

/** The values of Tree of Thoughts' game of 24 (Yao et al. 2023): one sure thought outweighs any number of likely ones. */
const MARKS = { sure: 20, likely: 1, impossible: 0.001 };

interface QuestionWords<State> {
  /** The task with its input, as the prompt says it. */
  task: string;
  /** The answer so far; undefined where there is none that could be judged. */
  show(state: State): string | undefined;
}

/** Asks whether an answer, or its beginning, is right: sure, likely or impossible. */
export function valueQuestion<State>({ task, show }: QuestionWords<State>): ValueQuestion<State> {
  return {
    prompt(state) {
      const answer = show(state);
      if (answer === undefined) return undefined;
      const content = [
        `${task}\n\nAn answer, or the beginning of one: ${answer}\n\n`,
        "Is it right so far? Check it, then end with one word: sure, likely or impossible.",
      ].join("");
      return [{ role: "user", content }];
    },
    read: readLabel(MARKS),
    choices: MARKS,
    failureScore: 0,
  };
}

/** Asks which of several answers, or beginnings, is best. */
export function voteQuestion<State>({ task, show }: QuestionWords<State>): VoteQuestion<State> {
  return {
    prompt(states) {
      const answers = states.map((state, i) => `${i + 1}: ${show(state) ?? "(unreadable)"}\n`).join("");
      const content = [
        `${task}\n\nAnswers, or beginnings of one:\n${answers}\n`,
        "Which of them is most likely right? Compare them, then end with its number.",
      ].join("");
      return [{ role: "user", content }];
    },
    read: readChoice,
  };
}
