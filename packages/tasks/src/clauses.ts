/**
 * Clauses of a non-disclosure agreement, each in several wordings that say the same. Every wording holds the clause's
 * `key`, which no other clause holds: so a program can tell which clauses a text keeps and which it repeats.
 */
export interface Clause {
  /** In lower case. */
  readonly key: string;
  readonly wordings: readonly string[];
}

export const CLAUSES: readonly Clause[] = [
  clause("purpose of evaluating a partnership", [
    "The parties exchange information for the purpose of evaluating a partnership.",
    "Information is shared only for the purpose of evaluating a partnership between the parties.",
  ]),
  clause("marked as confidential", [
    "Confidential Information means everything that is marked as confidential.",
    "Whatever a party has marked as confidential is Confidential Information.",
  ]),
  clause("disclosed orally", [
    "What is disclosed orally is protected when it is confirmed in writing within ten days.",
    "Information disclosed orally counts as confidential if a written note follows within ten days.",
  ]),
  clause("publicly known", [
    "Information that is publicly known without a breach is not protected.",
    "The duties do not cover what is publicly known through no fault of the Recipient.",
  ]),
  clause("independently developed", [
    "Information that the Recipient independently developed is excluded.",
    "What the Recipient has independently developed falls outside of this agreement.",
  ]),
  clause("court order", [
    "Disclosure under a court order is allowed after notice to the Discloser.",
    "If a court order demands disclosure, the Recipient informs the Discloser first.",
  ]),
  clause("need to know", [
    "Access is limited to employees who need to know.",
    "Only those employees who need to know may see the information.",
  ]),
  clause("same care as its own secrets", [
    "The Recipient protects the information with the same care as its own secrets.",
    "The Recipient uses the same care as its own secrets receive, and never less than reasonable care.",
  ]),
  clause("no copies", [
    "The Recipient makes no copies beyond what the purpose requires.",
    "Unless the purpose requires them, no copies may be made.",
  ]),
  clause("return or destroy", [
    "On request the Recipient will return or destroy all documents.",
    "The Recipient must return or destroy everything it received once the Discloser asks.",
  ]),
  clause("term of three years", [
    "This agreement has a term of three years.",
    "The duties of confidence last for a term of three years from signature.",
  ]),
  clause("thirty days' notice", [
    "Either party may end this agreement with thirty days' notice.",
    "The agreement can be ended by either side on thirty days' notice.",
  ]),
  clause("survive its end", [
    "The duties of confidence survive its end for two years.",
    "For two years after termination the obligations survive its end.",
  ]),
  clause("no licence", [
    "This agreement grants no licence to any patent or trademark.",
    "By disclosing information a party gives no licence to its rights.",
  ]),
  clause("as is", [
    "All information is provided as is, without any warranty.",
    "The Discloser gives the information as is and does not warrant that it is complete.",
  ]),
  clause("50,000 euros", [
    "A breach costs a penalty of 50,000 euros.",
    "For each breach the Recipient pays 50,000 euros.",
  ]),
  clause("injunction", [
    "The Discloser may ask for an injunction, since money alone may not repair a breach.",
    "Because damages may not suffice, an injunction can be sought.",
  ]),
  clause("subcontractors", [
    "Subcontractors must accept the same duties in writing before they receive anything.",
    "The Recipient answers for its subcontractors, who sign the same duties.",
  ]),
  clause("law of switzerland", [
    "The law of Switzerland governs this agreement.",
    "This agreement is subject to the law of Switzerland.",
  ]),
  clause("arbitration in geneva", [
    "Disputes go to arbitration in Geneva.",
    "The parties settle disputes by arbitration in Geneva.",
  ]),
  clause("assigned", [
    "Rights under this agreement may not be assigned without written consent.",
    "Without written consent of the other side nothing in this agreement may be assigned.",
  ]),
  clause("amendments", [
    "Amendments must be in writing and signed by both parties.",
    "Only signed written amendments change this agreement.",
  ]),
  clause("severable", [
    "The clauses are severable: one that is invalid does not affect the others.",
    "If one clause is invalid the rest stays valid, as all clauses are severable.",
  ]),
  clause("not to hire", [
    "For one year the parties agree not to hire each other's employees.",
    "Both sides promise not to hire employees of the other for one year.",
  ]),
];

function clause(key: string, wordings: string[]): Clause {
  return { key, wordings };
}
