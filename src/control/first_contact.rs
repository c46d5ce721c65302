//! The mistakes of a first start that the kernel or a clock reports: each is one line with its remedy.
//!
//! Not here: what the configuration itself refuses (`config`), what the machine lacks (`probe`), what Discord's REST says (`rest`), and what its gateway says
//! (`session/upstream/fatal`).

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use super::keys::Refusal;

/// A clock that is off by more is told: certificates look expired then, and times in logs mislead.
const CLOCK_OFF_MAX: Duration = Duration::from_secs(300);

/// The runtime did not start; `listen` is `bind` and `port`.
pub fn start_refused(listen: SocketAddr, error: &io::Error) -> Refusal {
    match error.kind() {
        io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable | io::ErrorKind::PermissionDenied => {
            not_bound("port", listen, error)
        }
        _ => Refusal::of(format!("the cores do not start: {error}")),
    }
}

/// An address cannot be listened at; `key` names it.
pub fn not_bound(key: &str, address: SocketAddr, error: &io::Error) -> Refusal {
    let remedy = match error.kind() {
        io::ErrorKind::AddrInUse => {
            let who = "another program listens there already";
            let find = format!("`ss -ltnp 'sport = :{}'` names it", address.port());
            return Refusal::of(format!(
                "{key}: found {address}, but {who} ({find}): end it or set another; a running shardgate is replaced by --takeover"
            ));
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address: set `0.0.0.0`, `::` or one of its own",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need a right: set a higher one, or AmbientCapabilities=CAP_NET_BIND_SERVICE in a systemd unit"
        }
        _ => return Refusal::of(format!("{key}: found {address}, but: {error}")),
    };
    Refusal::of(format!("{key}: found {address}, but {remedy}"))
}

/// A line when this machine's clock and that of whoever answered are far apart. `date` is the answer's header, `now` the time since 1970 here.
pub fn clock_off(date: &str, now: Duration) -> Option<String> {
    let theirs = http_date(date)?;
    let off = theirs.abs_diff(now);
    let where_to = if now > theirs { "ahead of" } else { "behind" };
    (off > CLOCK_OFF_MAX).then(|| {
        format!(
            "this machine's clock is {} s {where_to} Discord's: certificates may look invalid; remedy: timedatectl set-ntp true, or set it by hand",
            off.as_secs()
        )
    })
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`, as time since 1970.
///
/// Source: RFC 9110, 5.6.7 (IMF-fixdate; the two old forms are not sent any more).
fn http_date(text: &str) -> Option<Duration> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let rest = text.trim().split_once(", ")?.1.strip_suffix(" GMT")?;
    let [day, month, year, time] = rest.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let month = MONTHS.iter().position(|it| *it == month)? as i64 + 1;
    let (day, year) = (day.parse::<i64>().ok()?, year.parse::<i64>().ok()?);
    let [hours, minutes, seconds] =
        time.split(':').map(|it| it.parse::<i64>().ok()).collect::<Option<Vec<_>>>()?.try_into().ok()?;
    let seconds = (days_since_1970(year, month, day) * 24 + hours) * 3600 + minutes * 60 + seconds;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

/// Days of the Gregorian calendar, years counted from March so that a leap day is the last of its year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month > 2 { year } else { year - 1 };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(date: &str) -> Option<u64> {
        http_date(date).map(|it| it.as_secs())
    }

    #[test]
    fn a_date_of_http_is_seconds_since_1970() {
        assert_eq!(seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(seconds("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        assert_eq!(seconds("Sat, 01 Mar 2025 00:00:00 GMT"), Some(1_740_787_200));
        for bad in ["", "today", "Sun, 06 Nov 1994 08:49 GMT", "Sun, 06 Nox 1994 08:49:37 GMT", "Sun, 06 Nov 1994"] {
            assert_eq!(http_date(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_clock_that_is_off_by_more_than_five_minutes_is_told() {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let at = |seconds| clock_off(date, Duration::from_secs(seconds));
        assert_eq!((at(784_111_777), at(784_111_777 + 300), at(784_111_777 - 300)), (None, None, None));
        assert!(at(784_111_777 + 301).unwrap().starts_with("this machine's clock is 301 s ahead of Discord's"));
        assert!(at(0).unwrap().contains(" s behind Discord's: certificates"));
        assert_eq!(clock_off("nonsense", Duration::ZERO), None);
    }

    #[test]
    fn an_address_that_cannot_be_had_names_its_key_and_the_remedy() {
        let address: SocketAddr = ([0, 0, 0, 0], 80).into();
        let line = |kind: io::ErrorKind| start_refused(address, &kind.into()).to_string();
        assert!(line(io::ErrorKind::AddrInUse).starts_with("port: found 0.0.0.0:80, but another program listens"));
        assert!(line(io::ErrorKind::AddrInUse).contains("--takeover"));
        assert!(line(io::ErrorKind::PermissionDenied).contains("CAP_NET_BIND_SERVICE"));
        assert!(line(io::ErrorKind::AddrNotAvailable).contains("no such address"));
        assert!(line(io::ErrorKind::OutOfMemory).starts_with("the cores do not start: "));
    }
}
