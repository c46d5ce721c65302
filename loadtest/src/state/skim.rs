//! Reads a gateway's frames without looking at more than their first bytes: as cheap as a client can be.

/// The first bytes of a payload that are looked at; `{"t":"GUILD_CREATE"` fits.
const LOOKED_AT: usize = 24;
/// Longest header of a frame from a server.
const HEADER_MAX: usize = 10;

/// Takes the bytes of a connection in whatever pieces they come.
#[derive(Default)]
pub struct Skimmer {
    /// The frame that has begun, as far as it matters.
    head: Vec<u8>,
    /// Bytes of a frame that was looked at and are still to come.
    skip: u64,
}

impl Skimmer {
    /// Calls `on_payload` with the beginning of each payload of text or binary, and with nothing for a close frame.
    pub fn feed(&mut self, mut bytes: &[u8], mut on_payload: impl FnMut(Option<&[u8]>)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len() as u64);
            self.skip -= skipped;
            bytes = &bytes[skipped as usize..];
            let Some(byte) = bytes.first().filter(|_| self.skip == 0) else { return };
            self.head.push(*byte);
            bytes = &bytes[1..];
            let Some((header_len, payload_len)) = frame(&self.head) else { continue };
            let looked_at = payload_len.min(LOOKED_AT as u64);
            debug_assert!(self.head.len() <= HEADER_MAX + LOOKED_AT);
            if self.head.len() < header_len + looked_at as usize {
                continue;
            }
            match self.head[0] & 0x0F {
                1 | 2 => on_payload(Some(&self.head[header_len..])),
                8 => on_payload(None),
                _ => {}
            }
            self.skip = payload_len - looked_at;
            self.head.clear();
        }
    }
}

/// Lengths of the header and of the payload of a frame without mask; `None` while the header is not whole.
fn frame(head: &[u8]) -> Option<(usize, u64)> {
    Some(match head.get(1)? & 0x7F {
        126 => (4, u16::from_be_bytes(head.get(2..4)?.try_into().ok()?).into()),
        127 => (10, u64::from_be_bytes(head.get(2..10)?.try_into().ok()?)),
        len => (2, len.into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws;

    #[test]
    fn payloads_are_seen_however_the_bytes_are_cut() {
        let mut bytes = Vec::new();
        let payloads = ["{}".to_owned(), "a".repeat(200), "b".repeat(70_000), String::new(), "c".repeat(LOOKED_AT)];
        for payload in &payloads {
            ws::push_frame(&mut bytes, ws::TEXT, payload.as_bytes(), None);
            ws::push_frame(&mut bytes, ws::PONG, b"x", None);
        }
        ws::push_close(&mut bytes, 1000, "", None);
        let wanted: Vec<Option<String>> =
            payloads.iter().map(|it| Some(it.chars().take(LOOKED_AT).collect())).chain([None]).collect();
        for size in [1, 2, 3, 7, 100, 4096, bytes.len()] {
            let (mut skimmer, mut seen) = (Skimmer::default(), Vec::new());
            for piece in bytes.chunks(size) {
                skimmer.feed(piece, |it| seen.push(it.map(|it| String::from_utf8(it.to_vec()).unwrap())));
            }
            assert_eq!(seen, wanted, "in pieces of {size}");
        }
    }
}
