//! SIGTERM and SIGINT: the first asks for a clean stop, the second ends the process at once. SIGHUP asks for a reload.
//!
//! All are handled, not defaulted, so that they work for PID 1 of a container too.

#![forbid(unsafe_code)]

use std::io;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Exit status after a second signal.
const IMPATIENT: i32 = 1;

/// Calls `stop` at the first signal, on a thread of its own.
pub fn on_first(stop: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let wait = move || {
        let mut arrived = signals.forever();
        if arrived.next().is_some() {
            stop();
        }
        if arrived.next().is_some() {
            signal_hook::low_level::exit(IMPATIENT);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map(drop)
}

/// Calls `act` at each of these signals, on a thread of its own.
pub fn on_each(signal: i32, mut act: impl FnMut() + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([signal])?;
    let wait = move || signals.forever().for_each(|_| act());
    thread::Builder::new().name("signals".into()).spawn(wait).map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use signal_hook::consts::SIGHUP;

    use super::*;

    #[test]
    fn the_first_signal_asks_for_a_stop() {
        let (stop, stopped) = mpsc::channel();
        on_first(move || stop.send(()).unwrap()).unwrap();
        signal_hook::low_level::raise(SIGTERM).unwrap();
        assert_eq!(stopped.recv(), Ok(()));
    }

    #[test]
    fn a_signal_for_a_reload_is_heard_each_time() {
        let (reload, reloads) = mpsc::channel();
        on_each(SIGHUP, move || reload.send(()).unwrap()).unwrap();
        for _ in 0..2 {
            signal_hook::low_level::raise(SIGHUP).unwrap();
            assert_eq!(reloads.recv(), Ok(()));
        }
    }
}
