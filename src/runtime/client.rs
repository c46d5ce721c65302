//! Scaffold: replaced by the runtime.
pub struct HandOver;
