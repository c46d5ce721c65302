//! temporary
use std::time::Instant;
use crate::wire::CloseCode;
use super::payload::Command;
#[derive(Debug)]
pub struct Commands;
#[derive(Debug)]
pub struct Refused;
impl Refused { pub fn close_code(&self) -> CloseCode { CloseCode::RATE_LIMITED } pub fn reason(&self) -> &'static str { "" } }
pub enum Route { Everyone, Client { client: u64, data: Vec<u8> }, Nobody }
impl Commands {
    pub fn new() -> Self { Self }
    pub fn push(&mut self, _: u64, _: Command, _: Instant) -> Result<(), Refused> { Ok(()) }
    pub fn poll(&mut self, _: Instant) -> Option<Vec<u8>> { None }
    pub fn due(&self) -> Option<Instant> { None }
    pub fn drop_client(&mut self, _: u64) {}
    pub fn on_connected(&mut self, _: Instant) {}
    pub fn on_disconnected(&mut self) {}
    pub fn route(&mut self, _: &[u8], _: &[u8], _: Instant) -> Route { Route::Everyone }
    pub fn queued(&self) -> usize { 0 }
    pub fn refused(&self) -> u64 { 0 }
}
