//! SIGTERM and SIGINT: the first asks for a clean stop, the second ends the process at once. SIGUSR2 asks for the totals, SIGHUP for a reload.
//!
//! All are handled, not defaulted, so that they work for PID 1 of a container too.

#![forbid(unsafe_code)]

use std::io;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::Signals;

/// Exit status after a second signal.
const IMPATIENT: i32 = 1;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    Stop,
    /// SIGUSR2.
    Totals,
    /// SIGHUP.
    Reload,
}

/// Calls `tell` at every signal but the one that ends the process, on a thread of its own.
pub fn on_each(tell: impl Fn(Wish) + Send + 'static) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR2, SIGHUP])?;
    let wait = move || {
        let mut is_stopping = false;
        for signal in signals.forever() {
            match signal {
                SIGUSR2 => tell(Wish::Totals),
                SIGHUP => tell(Wish::Reload),
                _ if std::mem::replace(&mut is_stopping, true) => signal_hook::low_level::exit(IMPATIENT),
                _ => tell(Wish::Stop),
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait).map(drop)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn the_first_signal_asks_for_a_stop_and_another_kind_for_the_totals() {
        let (tell, told) = mpsc::channel();
        on_each(move |wish| tell.send(wish).unwrap()).unwrap();
        for (signal, wish) in
            [(SIGUSR2, Wish::Totals), (SIGHUP, Wish::Reload), (SIGUSR2, Wish::Totals), (SIGTERM, Wish::Stop)]
        {
            signal_hook::low_level::raise(signal).unwrap();
            assert_eq!(told.recv(), Ok(wish));
        }
    }
}
