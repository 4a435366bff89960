// How search results are ordered: guides before the pages of single modules and functions, unless
// the very name of one was typed. The numbers are Sphinx's own; only `score` and the first two differ.
var Scorer = {
  score: ([docname, title, anchor, descr, score, filename, kind]) =>
    docname.startsWith("reference/api/") && kind !== "object" ? score - 12 : score,
  objNameMatch: 16,
  objPartialMatch: 2,
  objPrio: { 0: 5, 1: 0, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
