//! (to be written)
pub mod address;
pub mod args;
pub mod config;
pub mod keys;
pub mod presence;
pub mod rest;
pub mod settings;
