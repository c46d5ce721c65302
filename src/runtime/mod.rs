//! (to be written)
pub mod client;
pub mod clock;
pub mod mesh;
pub mod settings;
pub mod sys;

/// Scaffold: replaced by the runtime.
pub struct Running {
    pub senders: Vec<mesh::CoreSender>,
    pub threads: Vec<std::thread::JoinHandle<()>>,
    pub core_of: Box<dyn Fn(crate::wire::ShardId) -> usize>,
}

/// Scaffold: replaced by the runtime.
pub fn start(
    _settings: settings::RuntimeSettings,
    _to_control: std::sync::mpsc::Sender<mesh::ToControl>,
) -> std::io::Result<Running> {
    Err(std::io::Error::other("no runtime yet"))
}
