//! Machines move, in every way that is foreseen.

mod attempts;
mod disturbed;
mod encoded;
mod encrypted;
mod ending;
mod moves;
mod pairs;
mod postcopy;
mod report;
mod reported;
mod rings;
mod run_state;
mod zero_copy;
