//! The fake Discord's statistics, read.

use serde_json::Value;

fn sessions_of(stats: &Value) -> impl Iterator<Item = &Value> {
    stats["shards"].as_array().unwrap().iter().flat_map(|it| it["sessions"].as_array().unwrap())
}

/// Sessions that Discord keeps.
pub fn sessions(stats: &Value) -> usize {
    sessions_of(stats).count()
}

/// Sessions that have a connection.
pub fn connected(stats: &Value) -> usize {
    sessions_of(stats).filter(|it| it["connected"] == true).count()
}
