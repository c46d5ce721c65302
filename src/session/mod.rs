//! (to be written)
pub mod identify;
