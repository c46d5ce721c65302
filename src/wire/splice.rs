//! Writes a client's own sequence number into a payload on its way out, without touching the payload.
//!
//! The payload stays where it is, shared by all clients. What one client gets is the bytes before the digits, its own
//! digits, and the bytes behind them, so that more or fewer digits shift nothing.

#![forbid(unsafe_code)]

use std::ops::Range;

/// The decimal digits of a sequence number, on the stack.
#[derive(Clone, Copy, Debug)]
pub struct Digits {
    bytes: [u8; 20],
    start: u8,
}

impl Digits {
    pub fn new(number: u64) -> Self {
        let mut bytes = [b'0'; 20];
        let mut start = bytes.len();
        let mut rest = number;
        loop {
            start -= 1;
            bytes[start] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                return Self { bytes, start: start as u8 };
            }
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..]
    }
}

/// `payload` with `sequence` in place of its own, as three parts to be written one behind the other.
///
/// `sequence_span` is [`super::scan::Envelope::sequence_span`] of `payload`.
pub fn splice<'a>(payload: &'a [u8], sequence_span: &Range<usize>, sequence: &'a Digits) -> [&'a [u8]; 3] {
    [&payload[..sequence_span.start], sequence.as_bytes(), &payload[sequence_span.end..]]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_the_digits_of_s_are_replaced() {
        let payload = br#"{"t":"TYPING_START","s":9,"op":0,"d":{"s":9}}"#;
        let sequence = Digits::new(10);
        let spliced = splice(payload, &(24..25), &sequence).concat();
        assert_eq!(spliced, br#"{"t":"TYPING_START","s":10,"op":0,"d":{"s":9}}"#);
    }

    proptest! {
        #[test]
        fn digits_are_what_display_writes(number: u64, shift in 0..64) {
            let number = number >> shift;
            let digits = Digits::new(number);
            prop_assert_eq!(digits.as_bytes().to_vec(), number.to_string().into_bytes());
        }
    }
}
