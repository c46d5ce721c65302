//! Scaffold: replaced by wire.
#[derive(Debug, Clone)]
pub struct PlainRequest {
    pub method: String,
    pub path: String,
    pub host: Option<String>,
    pub head_only: bool,
}
