//! (to be written)
pub mod address;
pub mod config;
pub mod keys;
pub mod presence;
