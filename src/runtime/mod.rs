//! (to be written)
pub mod client;
pub mod clock;
pub mod mesh;
pub mod settings;
pub mod sys;
