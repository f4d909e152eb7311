//! The workspace keeps its own rules. One test a rule, so that a failure names it.

mod rules;
