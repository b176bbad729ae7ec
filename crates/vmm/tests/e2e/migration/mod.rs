//! Machines move, in every way that is foreseen.

mod attempts;
mod moves;
mod reported;
mod run_state;
