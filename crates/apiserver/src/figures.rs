use std::fmt::Debug;

/// Whoever knows the figures.
pub trait Figures: Debug + Send + Sync {
    /// The figures as text, in the format that a header `Accept` asks for, and its media type.
    fn text(&self, accept: &str) -> (&'static str, String);
}
