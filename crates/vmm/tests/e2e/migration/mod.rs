//! Machines move, in every way that is foreseen.

mod attempts;
mod disturbed;
mod moves;
mod reported;
mod run_state;
