//! How short memory is, and what a core does about it. Who measures, and when a level begins and ends, is the control thread's.
//!
//! State itself is never given up: what can be spared is the log, slow clients, and new ones.

/// Levels of the process's memory budget (`memory_limit`), each with everything the ones before it do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pressure {
    #[default]
    None,
    /// From 80 %: logs shrink to half of their budget, unused memory goes back to the kernel.
    Shrink,
    /// From 90 %: logs shrink to a quarter, the clients that lag most are closed resumably, and who identifies anew waits for READY.
    Shed,
    /// From 100 %: logs shrink to their floor, a sixteenth, and new connections are answered 503.
    Full,
}

impl Pressure {
    /// Of the budget, where the level begins, in percent.
    pub fn percent(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Shrink => 80,
            Self::Shed => 90,
            Self::Full => 100,
        }
    }

    /// What is left of a log's budget of `bytes`.
    pub fn log_bytes(self, bytes: usize) -> usize {
        match self {
            Self::None => bytes,
            Self::Shrink => bytes / 2,
            Self::Shed => bytes / 4,
            Self::Full => bytes / 16,
        }
    }

    /// Clients that identify wait until memory is free again: a snapshot is the most that one client can ask for.
    pub fn holds_snapshots(self) -> bool {
        self >= Self::Shed
    }

    pub fn cuts_laggards(self) -> bool {
        self >= Self::Shed
    }

    pub fn refuses_clients(self) -> bool {
        self >= Self::Full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_spares_more_than_the_one_before() {
        let levels = [Pressure::None, Pressure::Shrink, Pressure::Shed, Pressure::Full];
        for pair in levels.windows(2) {
            assert!(pair[0] < pair[1] && pair[0].percent() < pair[1].percent());
            assert!(pair[0].log_bytes(1 << 20) > pair[1].log_bytes(1 << 20));
            assert!(pair[0].holds_snapshots() <= pair[1].holds_snapshots());
            assert!(pair[0].refuses_clients() <= pair[1].refuses_clients());
        }
    }
}
