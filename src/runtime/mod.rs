//! (to be written)
pub mod client;
pub mod mesh;
pub mod settings;
pub mod sys;
