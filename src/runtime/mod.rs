//! (to be written)
pub mod chunk;
pub mod clock;
pub mod epoll;
pub mod net;
mod outbox;
pub mod settings;
pub mod sys;
mod table;
pub mod uring;
