mod board;

pub use board::BoardError;
